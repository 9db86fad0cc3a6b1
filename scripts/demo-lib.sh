#!/usr/bin/env bash
# What the demos share, to be sourced by them: a directory of their own, servers that end with
# them, the build, and output that a person can follow.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

heading() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
if [ ! -t 1 ]; then heading() { printf '\n== %s\n' "$*"; }; fi
# Shows a command, with quotes where it takes them to type it, and runs it. (No word here has both
# kinds of quotes, or anything that double quotes leave special.)
run() {
    local word shown='$'
    for word in "$@"; do
        case $word in
            *\'*) shown+=" \"$word\"" ;;
            *[!A-Za-z0-9_./:=,@+-]* | '') shown+=" '$word'" ;;
            *) shown+=" $word" ;;
        esac
    done
    printf '%s\n' "$shown"
    "$@"
}
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Not under TMPDIR: the path of a unix socket may have no more than about 100 bytes.
work=$(mktemp -d /tmp/sqlite-redis-demo.XXXXXX)
finish() {
    local pid
    # A second Ctrl-C must not stop this half-way.
    trap '' INT TERM HUP
    # The servers, and the writers should one still run.
    for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Another server than the redis-server of PATH: REDIS_SERVER=target/servers/6.2/redis-server scripts/demo
if [ -n "${REDIS_SERVER:-}" ]; then
    program=$(cd "$root" && realpath "$(command -v "$REDIS_SERVER")") || fail "there is no $REDIS_SERVER"
    mkdir "$work/bin"
    ln -s "$program" "$work/bin/redis-server"
    [ ! -x "$(dirname "$program")/redis-cli" ] || ln -s "$(dirname "$program")/redis-cli" "$work/bin/redis-cli"
    PATH="$work/bin:$PATH"
fi

# Builds, and leaves the shell in PATH, the extension in $extension, and a Python that loads it in
# $python. Goes to the directory of the demo.
build() {
    heading "Build"
    cd "$root"
    # CI shows that it works with what its tests have built already.
    local profile=${DEMO_PROFILE:-release}
    if [ "$profile" = release ]; then run cargo build --release --locked; else
        cargo build --quiet --profile "$profile" --workspace --locked
    fi
    # Where cargo puts it, also with CARGO_TARGET_DIR or a configured directory.
    local target candidate variable
    target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    local built=$target/${profile/dev/debug}
    export PATH="$built:$PATH"
    extension=$built/libsqlite_redis.so
    [ -e "$extension" ] || extension=$built/libsqlite_redis.dylib
    [ -e "$extension" ] || fail "the build made no extension"

    python=
    for candidate in python3 /usr/bin/python3; do
        if "$candidate" -c 'import sqlite3; sqlite3.Connection.enable_load_extension' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "no python3 that can load SQLite extensions"
    while read -r variable; do unset "$variable"; done < <(compgen -e SQLITE_REDIS_ || true)
    cd "$work"
}

# A port that nobody listens on right now.
free_port() {
    "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# server NAME [ARGUMENTS]: starts redis-server with the socket NAME.sock; its process is $pid.
server() {
    local name=$1
    shift
    mkdir -p "$name"
    redis-server "$@" --bind 127.0.0.1 --unixsocket "$work/$name.sock" --unixsocketperm 700 --dir "$work/$name" \
        --logfile redis.log --daemonize no >/dev/null 2>&1 &
    pid=$!
    for _ in $(seq 200); do
        if [ "$(redis-cli -s "$name.sock" PING 2>/dev/null)" = PONG ]; then return 0; fi
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

# server_on_port NAME [ARGUMENTS]: the same with a TCP port, which is $port. Should another program
# take the port first, the next one is tried.
server_on_port() {
    local name=$1
    shift
    for _ in 1 2 3 4 5; do
        port=$(free_port)
        if server "$name" "$@" --port "$port"; then return 0; fi
    done
    fail "$name does not start: $(tail -n 5 "$name/redis.log")"
}
