use super::*;

fn config(parameters: &[(&str, &str)]) -> Result<Config> {
    Config::from_parameters(parameters.iter().copied())
}

#[test]
fn defaults_are_valid() {
    let config = config(&[("vfs", "redis"), ("mode", "rwc")]).unwrap();
    assert_eq!(config.prefix, "sqlite");
    assert_eq!(config.cache_size, 64 << 20);
    assert_eq!(config.lease, Duration::from_secs(5));
}

#[test]
fn defaults_are_within_their_ranges() {
    for setting in SETTINGS {
        assert!(setting.range.is_none_or(|range| range.parse(setting.default).is_some()), "{}", setting.parameter);
    }
}

#[test]
fn an_unknown_parameter_is_named() {
    let error = config(&[("cashe_size", "1")]).unwrap_err().to_string();
    assert!(error.contains("cashe_size") && error.contains("cache_size"), "{error}");
}

#[test]
fn parameters_of_drivers_are_left_to_them() {
    assert!(config(&[("_busy_timeout", "5000"), ("_pragma", "foreign_keys(1)")]).is_ok());
}

#[test]
fn parameters_that_would_break_sharing_are_refused() {
    assert!(config(&[("nolock", "1")]).is_err());
    assert!(config(&[("immutable", "1")]).is_err());
}

#[test]
fn bad_values_are_refused() {
    for (name, value) in [
        ("cache_size", "many"),
        ("cache_size", "1048576G"),
        ("cache_size", "17179869183G"),
        ("lease_ms", "0"),
        ("lease_ms", "-5"),
        ("timeout_ms", ""),
        ("log_commits", "1.5"),
        ("wait", "-1"),
        ("wait", "all"),
        ("readonly", "maybe"),
        ("replica", "localhost:6379"),
        ("replica", ""),
        ("replica", "sentinel://shop@a:1"),
        ("consistency", "eventual"),
        ("consistency", "bounded"),
        ("catch_up_ms", "0"),
        ("prefix", "a{b"),
        ("prefix", ""),
        ("redis", "localhost:6379"),
        ("redis", "http://localhost"),
        ("redis", "redis://host:notaport"),
    ] {
        assert!(config(&[(name, value)]).is_err(), "{name}={value}");
    }
}

#[test]
fn replicas_are_those_that_were_given() {
    let replicas = |parameters: &[(&str, &str)]| match config(parameters).unwrap().replicas {
        Replicas::Named(named) => named.iter().map(Address::name).collect::<Vec<_>>(),
        Replicas::Auto => vec!["auto".to_owned()],
    };
    assert!(replicas(&[]).is_empty());
    assert_eq!(
        replicas(&[("replica", "redis://a:1"), ("lease_ms", "100"), ("replica", "unix:///b?db=2")]),
        ["redis://a:1", "unix:///b?db=2"]
    );
    assert_eq!(replicas(&[("replica", "auto")]), ["auto"]);
    let error = config(&[("replica", "redis://u:secret@a"); 65]).unwrap_err().to_string();
    assert!(error.contains("64 at most") && !error.contains("secret"), "{error}");
}

#[test]
fn the_wait_for_replicas_ends_before_the_wait_for_the_reply() {
    assert!(config(&[("wait", "1"), ("wait_ms", "500"), ("timeout_ms", "501")]).is_ok());
    assert!(config(&[("wait", "1"), ("wait_ms", "500"), ("timeout_ms", "500")]).is_err());
    assert!(config(&[("wait_disk", "1"), ("timeout_ms", "500")]).is_err());
    assert!(config(&[("wait", "0"), ("timeout_ms", "500")]).is_ok());
}

#[test]
fn no_message_shows_a_password() {
    for url in [
        "redis://me:secret@host:notaport",
        "me:secret@host:6379",
        "redis:/me:secret@host",
        "http://a@host?pass=secret",
        "http://me:secret@host//x",
        "me:secret//x@host",
        "redis://h?protocol=me:secret@x",
        "me:secret@host redis://x",
        "unix:///path?db=x&pass=a@secret",
        "sentinel://me:secret@a b@host:1",
        "sentinel://shop@host:1/x?sentinel_password=secret",
        "sentinel://shop@host:1/x?sentinel_password=a@secret",
        "redis+cluster://me:secret@host:1/2",
    ] {
        let error = config(&[("redis", url)]).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
    let config = config(&[("redis", "redis://me:secret@host:7000/3")]).unwrap();
    assert_eq!(config.server_name(), "redis://host:7000/3");
    let url = "sentinel://me:secret@shop@host:1/3?sentinel_password=secret";
    let config = Config::from_parameters([("redis", url)]).unwrap();
    assert_eq!(config.server_name(), "sentinel://shop@host:1/3");
    assert_eq!(config.server.passwords(), ["secret", "secret"]);
}
