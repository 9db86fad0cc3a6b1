//! Replies that arrive over a socket: whole, in pieces, or without end.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

fn plain(socket: UnixStream) -> Wire {
    Wire::new(Socket::of(socket), Duration::from_secs(60), LARGEST)
}

/// Logs in to a server that answers with `replies` once all commands have arrived.
fn logged_in(url: &str, replies: &str) -> RedisResult<i64> {
    let (here, mut there) = UnixStream::pair().unwrap();
    there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut asked = Vec::new();
            while !asked.windows(7).any(|word| word == b"LIB-VER") {
                let mut more = [0; 1024];
                let count = there.read(&mut more).unwrap();
                asked.extend_from_slice(&more[..count]);
            }
            there.write_all(replies.as_bytes()).unwrap();
        });
        let mut plain = plain(here);
        let Ok(crate::config::Address::Fixed(endpoint)) = crate::config::Address::parse(url) else { panic!("{url}") };
        let password = endpoint.password.given();
        plain.log_in(&endpoint, password, Hello::default())?;
        Ok(plain.get_db())
    })
}

#[test]
fn logging_in_is_one_round_trip() {
    let unknown = "-ERR unknown subcommand\r\n-NOPERM no\r\n";
    assert_eq!(logged_in("redis://host", unknown), Ok(0));
    assert_eq!(logged_in("redis://:pw@host", &format!("+OK\r\n{unknown}")), Ok(0));
    assert_eq!(logged_in("redis://ann:pw@host/3", &format!("+OK\r\n+OK\r\n{unknown}")), Ok(3));
    let wrong = logged_in("redis://ann:pw@host/3", &format!("-WRONGPASS no\r\n-NOAUTH log in\r\n{unknown}"));
    let wrong = wrong.unwrap_err();
    assert!(wrong.kind() == redis::ErrorKind::AuthenticationFailed && wrong.to_string().contains("WRONGPASS"));
    let none = logged_in("redis://host/99", &format!("-ERR DB index is out of range\r\n{unknown}"));
    assert!(none.unwrap_err().to_string().contains("out of range"));
}

/// The first reply in bytes that arrive in pieces, and whether the connection is still open.
fn read(pieces: &[&[u8]]) -> (RedisResult<Value>, bool) {
    let (here, mut there) = UnixStream::pair().unwrap();
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    let server = std::thread::spawn(move || pieces.iter().for_each(|piece| there.write_all(piece).unwrap_or(())));
    let mut plain = plain(here);
    let reply = plain.receive();
    let open = plain.open;
    // The reader may be gone before all bytes are written.
    drop(plain);
    server.join().unwrap();
    (reply, open)
}

#[test]
fn replies_are_parsed_as_by_the_library() {
    let long = [format!("${}\r\n", 3 * BUFFER).as_bytes(), &vec![b'x'; 3 * BUFFER], b"\r\n"].concat();
    let replies: [&[u8]; 12] = [
        b"+OK\r\n",
        b"+PONG\r\n",
        b":-12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\n\r\n\0\xff\n\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*3\r\n$1\r\na\r\n:7\r\n*2\r\n$-1\r\n+x\r\n",
        b"-WRONGTYPE it is none\r\n",
        b"*1\r\n-ERR no\r\n",
        &long,
    ];
    for reply in replies {
        let expected = parse_redis_value(reply).unwrap();
        assert_eq!(read(&[reply]).0.unwrap(), expected);
        for cut in [1, reply.len() / 2, reply.len() - 1] {
            let (start, end) = reply.split_at(cut);
            assert_eq!(read(&[start, end]), (Ok(expected.clone()), true));
        }
    }
}

/// The result of reading a reply whose last part is repeated some thousand times.
fn endless(mut plain: Wire, mut there: UnixStream, begin: &[u8], again: &[u8], pause: Duration) -> RedisError {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            there.write_all(begin).unwrap();
            for _ in 0..20_000 {
                if there.write_all(again).is_err() {
                    return;
                }
                std::thread::sleep(pause);
            }
        });
        let error = plain.receive().unwrap_err();
        assert!(!plain.open);
        drop(plain);
        error
    })
}

#[test]
fn a_reply_without_end_is_given_up() {
    for (begin, again) in [
        (&b"*9223372036854775807\r\n"[..], &b":1\r\n"[..]),
        (b"*9223372036854775807\r\n", b"$-1\r\n"),
        (b"$9223372036854775807\r\n", b"x"),
    ] {
        let (here, there) = UnixStream::pair().unwrap();
        let slow = Wire { patience: Duration::from_millis(20), ..plain(here) };
        let error = endless(slow, there, begin, again, Duration::from_millis(1));
        assert!(error.is_timeout(), "{error}");

        let (here, there) = UnixStream::pair().unwrap();
        let large = Wire { largest: 4 << 20, ..plain(here) };
        let error = endless(large, there, begin, &again.repeat(1 << 10), Duration::ZERO);
        assert!(error.to_string().contains("more memory"), "{error}");
    }
}

#[test]
fn a_server_that_answers_a_login_with_gigabytes_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let url = format!("unix://{}", path.display());
    let Ok(crate::config::Address::Fixed(endpoint)) = crate::config::Address::parse(&url) else { panic!("{url}") };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut there = listener.accept().unwrap().0;
            let mut sent = there.write_all(b"$4000000000\r\n");
            let (mut bytes, part) = (0, [b'x'; BUFFER]);
            while sent.is_ok() {
                sent = there.write_all(&part);
                bytes += part.len();
            }
            assert!(bytes < 2 * LARGEST_AT_LOGIN, "{bytes}");
        });
        let soon = Instant::now() + Duration::from_secs(60);
        let connected = Wire::connect(&endpoint, None, Hello::default(), soon, Duration::from_secs(60));
        let error = connected.err().unwrap();
        assert!(error.to_string().contains("more memory"), "{error}");
    });
}

#[test]
fn a_malformed_reply_closes_the_connection() {
    let deep = b"*1\r\n".repeat(DEEPEST + 1);
    let endless = vec![b'x'; 2 * LONGEST_LINE];
    let bad: [&[u8]; 12] = [
        b"",
        b"\r\n",
        b"?\r\n",
        b"+OK\n",
        b":\r\n",
        b":x\r\n",
        b"$-2\r\n",
        b"*-2\r\n",
        b"$2\r\nabc\r\n",
        b"$9223372036854775807\r\nab",
        &deep,
        &endless,
    ];
    for bytes in bad {
        let (reply, open) = read(&[bytes]);
        assert!(reply.is_err() && !open, "{:?}", &bytes[..bytes.len().min(40)]);
    }
    assert!(read(&[b"*9223372036854775807\r\n$1\r\na\r\n"]).0.is_err(), "memory is not taken on trust");
}
