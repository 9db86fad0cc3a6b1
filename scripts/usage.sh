#!/usr/bin/env bash
# Sourced by each script at its start. `--help` prints the comment at the top of the script; what the script does not know
# ends it with exit status 2, before anything is built or installed.

# refuse MESSAGE
refuse() {
    printf '%s: %s; see scripts/%s --help\n' "$(basename "$0")" "$*" "$(basename "$0")" >&2
    exit 2
}

# usage OPTIONS MOST "$@": OPTIONS are the options of the script, with "=" behind one that takes a value. It takes MOST other
# arguments at most.
usage() {
    local options=" $1 " most=$2 others=0
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
                exit 0
                ;;
            -*)
                if [[ $options == *" $1= "* ]]; then
                    [ $# -gt 1 ] || refuse "$1 needs a value"
                    shift
                elif [[ $1 == --*=* && $options == *" ${1%%=*}= "* ]]; then :
                elif [[ $options != *" $1 "* ]]; then refuse "unknown option $1"; fi
                ;;
            *)
                others=$((others + 1))
                [ "$others" -le "$most" ] || refuse "unexpected argument $1"
                ;;
        esac
        shift
    done
}

# need_number WHAT VALUE
need_number() { [[ $2 =~ ^[0-9]+$ ]] || refuse "$1 must be a number, not $2"; }
