//! What a commit waits for after it is done: that replicas have it (`WAIT`), or that it is on
//! disk (`WAITAOF`).

use redis::{Cmd, Value, cmd};

use crate::config::{WAIT_DISK, Wait};
use crate::model::error::{Cause, Result};
use crate::model::version::Version;
use crate::wire::info::{info, info_field, version_of};
use crate::wire::reply::answered_with;
use crate::wire::request::Request;
use crate::wire::server::Server;

/// The first version of Redis that has `WAITAOF`.
const HAS_WAITAOF: (u32, u32) = (7, 2);

/// The commands that follow a commit; none when nothing is waited for. The last one's reply counts.
///
/// A replica answers the question of `WAITAOF` before it has written to its disk what came with
/// it, and then not again for a second. Asked twice, it has.
pub(crate) fn commands(wait: Wait) -> Vec<Cmd> {
    let time = wait.time.as_millis() as u64;
    let replicas = |time: u64| cmd("WAIT").arg(wait.replicas).arg(time.max(1)).to_owned();
    let disks = |time: u64| cmd("WAITAOF").arg(1).arg(wait.replicas).arg(time.max(1)).to_owned();
    match (wait.disk, wait.replicas) {
        (false, 0) => Vec::new(),
        (false, _) => vec![replicas(time)],
        (true, 0) => vec![disks(time)],
        (true, _) => vec![replicas(time / 4), disks(time - time / 4)],
    }
}

/// Whether a commit that is done has got as far as it should, by the reply to that command.
pub(crate) fn check(version: Version, wait: Wait, reply: Result<Value>) -> Result<()> {
    let (wanted, within) = (i64::from(wait.replicas), wait.time.as_millis());
    let reason = match (wait.disk, reply) {
        (false, Ok(Value::Int(have))) if have >= wanted => return Ok(()),
        (false, Ok(Value::Int(have))) => format!("only {have} of {wanted} replicas had it within {within} ms"),
        (true, Ok(Value::Array(reply))) => match reply.as_slice() {
            [Value::Int(1..), Value::Int(have)] if *have >= wanted => return Ok(()),
            [Value::Int(1..), Value::Int(have)] => {
                format!("only {have} of {wanted} replicas had it on disk within {within} ms")
            }
            [Value::Int(0), Value::Int(_)] => format!("it was not on the primary's disk within {within} ms"),
            _ => answered_with("WAITAOF", &Value::Array(reply)),
        },
        (_, Ok(other)) => answered_with("the wait", &other),
        (_, Err(error)) => format!("it could not be asked who has it: {error}"),
    };
    Err(Cause::NotReplicated { version, reason }.into())
}

/// Refuses to wait for a disk where the server can't tell of it.
pub(crate) fn check_server(server: &Server, wait: Wait) -> Result<()> {
    if !wait.disk {
        return Ok(());
    }
    let mut request = Request::one(cmd("INFO").arg("server"));
    request.push(cmd("INFO").arg("persistence"));
    let mut replies = server.ask(&request)?.into_iter();
    let (version, persistence) = (info(replies.next())?, info(replies.next())?);
    let refuse = |reason: String| {
        let (setting, value) = (WAIT_DISK.parameter.to_owned(), "1".to_owned());
        Err(Cause::BadSetting { setting, value, reason }.into())
    };
    if let Some(version) = info_field(version.as_deref(), "redis_version")
        && version_of(version) < HAS_WAITAOF
    {
        return refuse(format!(
            "the server is version {version}; to wait for its disk (WAITAOF) needs Redis 7.2 or later"
        ));
    }
    if info_field(persistence.as_deref(), "aof_enabled") == Some("0") {
        return refuse("the server has appendonly off, so nothing gets to its disk commit by commit".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn wait(replicas: u32, disk: bool) -> Wait {
        Wait { replicas, disk, time: Duration::from_millis(50) }
    }

    fn words(command: &Cmd) -> String {
        let packed = String::from_utf8(command.get_packed_command()).unwrap();
        packed.split("\r\n").skip(2).step_by(2).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_setting_has_its_command() {
        let sent = |wait| commands(wait).iter().map(words).collect::<Vec<_>>();
        assert_eq!(sent(wait(0, false)), [""; 0]);
        assert_eq!(sent(wait(2, false)), ["WAIT 2 50"]);
        assert_eq!(sent(wait(0, true)), ["WAITAOF 1 0 50"]);
        assert_eq!(sent(wait(1, true)), ["WAIT 1 12", "WAITAOF 1 1 38"]);
    }

    #[test]
    fn only_enough_is_enough() {
        let aof = |local, replicas| Ok(Value::Array(vec![Value::Int(local), Value::Int(replicas)]));
        let ok = |wait, reply| check(Version(7), wait, reply).is_ok();
        assert!(ok(wait(2, false), Ok(Value::Int(2))) && !ok(wait(2, false), Ok(Value::Int(1))));
        assert!(ok(wait(0, true), aof(1, 0)) && ok(wait(1, true), aof(1, 2)));
        for reply in [aof(0, 2), aof(1, 0), Ok(Value::Int(1)), Ok(Value::Array(vec![])), Ok(Value::Nil)] {
            assert!(!ok(wait(1, true), reply.clone()), "{reply:?}");
        }
        assert!(!ok(wait(1, false), aof(1, 1)));
        assert!(!ok(wait(1, true), Err(Cause::Server("ERR unknown command".into()).into())));
        let error = check(Version(7), wait(0, true), aof(0, 0)).unwrap_err().to_string();
        assert!(error.contains("version 7 is written and stands") && error.contains("disk within 50 ms"), "{error}");
    }
}
