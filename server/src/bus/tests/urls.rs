//! URLs of Redis.

use crate::bus::check_url;
use crate::bus::url::parse;

#[test]
fn what_is_allowed_is_taken() {
    let cases = [
        ("redis://cache", "cache:6379"),
        ("redis://127.0.0.1:7000/3", "127.0.0.1:7000"),
        ("redis://:p%40ss%2F@cache", "cache:6379"),
        ("redis://drumline:secret@cache:1", "cache:1"),
        ("rediss://drumline:secret@cache:1/0", "cache:1"),
        ("redis-sentinel://s1?sentinelServiceName=main", "s1:26379"),
        (
            "redis-sentinel://u:p@s1:1/2?sentinelServiceName=main&sentinelUsername=su&sentinelPassword=sp&node=s2:2&node=s3:3",
            "s2:2, s3:3, s1:1",
        ),
        ("rediss-sentinel://s1:1?sentinelServiceName=main", "s1:1"),
        ("redis-cluster://u:p@c1:1?node=c2:2", "c2:2, c1:1"),
        ("rediss-cluster://c1:1/", "c1:1"),
    ];
    for (url, servers) in cases {
        let place = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(place.to_string(), servers, "{url}");
    }
}

#[test]
fn users_and_passwords_are_decoded() {
    let config = parse("redis://dr%75m:p%40ss%2Fword@cache").expect("a URL").config();
    assert_eq!(config.username.as_deref(), Some("drum"));
    assert_eq!(config.password.as_deref(), Some("p@ss/word"));
    let config = parse("redis://:word@cache").expect("a URL").config();
    assert_eq!((config.username, config.password.as_deref()), (None, Some("word")));
}

#[test]
fn what_is_wrong_is_said_without_its_secrets() {
    let cases = [
        ("", "not a URL"),
        ("cache:6379", "begins with redis://"),
        ("SECRET", "not a URL"),
        ("http://u:SECRET@cache", "begins with redis://"),
        ("redis+unix:///SECRET", "begins with redis://"),
        ("redis:///1", "host is missing"),
        ("redis://u:SECRET@", "not a URL"),
        ("redis://u:SEC/RET@cache", "not a URL"),
        ("redis://u:SECRET?x@cache", "not a URL"),
        ("redis://u:SECRET@cache#x", "%23"),
        ("redis://SECRET@cache", "a user needs a password"),
        ("redis://u:SECRET@cache/one", "from 0 to 255"),
        ("redis://u:SECRET@cache/256", "from 0 to 255"),
        ("redis://u:SECRET@cache/1/2", "from 0 to 255"),
        (
            "redis://u:SECRET@cache?node=a:1",
            "`node` is for sentinels and clusters",
        ),
        ("redis://u:SECRET@cache?password=SECRET", "not known"),
        ("redis://u:SECRET@cache?sslrootcert=/f", "for TLS"),
        ("redis-cluster://u:SECRET@c1:1/1", "no databases"),
        ("redis-cluster://u:SECRET@c1:1?node=c2", "HOST:PORT"),
        ("redis-cluster://u:SECRET@c1:1?node=c2:SECRET", "HOST:PORT"),
        ("redis-cluster://u:SECRET@c1:1?node=", "`node` is empty"),
        ("redis-sentinel://u:SECRET@s1", "`sentinelServiceName` is missing"),
        ("redis-sentinel://u:SECRET@s1?sentinelServiceName=", "is empty"),
        ("rediss://u:SECRET@cache?sslrootcert=/no/such/file", "/no/such/file"),
        ("rediss://u:SECRET@cache?sslcert=/dev/null", "go together"),
        ("rediss://u:SECRET@cache?sslrootcert=/dev/null", "no certificate"),
    ];
    for (url, wanted) in cases {
        let error = check_url(url).expect_err(url);
        let said = format!("{error} {error:?}");
        assert!(said.contains(wanted), "{url}: {said}");
        assert!(!said.contains("SEC") && !said.contains("RET"), "{url}: {said}");
    }
}
