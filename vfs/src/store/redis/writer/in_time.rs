//! A commit is tried again after a lost connection, with growing pauses, until its outcome is known or its time is up.
//!
//! | Attempt | What can come of it | Next |
//! | --- | --- | --- |
//! | the connection broke before `EXEC` was sent | nothing | sent again |
//! | the reply to `EXEC` was lost | it may still arrive | looked up by its id; if it is not there, sent again |
//! | `EXEC` was answered | what the reply says | the end, unless an earlier attempt may still arrive |
//!
//! Once a reply was lost, only the hash and the log decide: a later attempt that is refused may have been refused
//! because of the first. A second attempt can't make a second version: it watches the hash, which the first would have
//! changed.

use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::Value;

use crate::model::error::{Cause, Error, Result};
use crate::wire::link::Unanswered;
use crate::wire::reply::checked;

/// Between two attempts: first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How an attempt to commit ended short of a refusal.
pub(crate) enum Attempt<D> {
    Done(D),
    /// Nothing was done, and another connection may do it: this one was lost before `EXEC` was sent, or its server
    /// has been made a replica.
    NotDone(String),
    /// The reply to `EXEC` was lost.
    Lost(String),
}

impl<D> Attempt<D> {
    /// A failure after which nothing was done, on a connection that is closed now or not.
    pub(crate) fn not_done(error: Error, is_closed: bool) -> Result<Self> {
        match &error.cause {
            Cause::ConnectionLost(_) | Cause::NoReply => Ok(Attempt::NotDone(reason(&error))),
            // It has been made a replica, or a name leads elsewhere now.
            Cause::ReadOnlyServer(_) if is_closed => Ok(Attempt::NotDone(reason(&error))),
            _ => Err(error),
        }
    }

    /// The replies to a transaction that was refused. A command that was refused while it was queued says why; `EXEC`
    /// only says that one was.
    pub(crate) fn refused(replies: impl Iterator<Item = Value>, is_closed: bool) -> Result<Self> {
        for reply in replies {
            if let Err(error) = checked(reply) {
                return Attempt::not_done(error, is_closed);
            }
        }
        Err(Cause::BadReply("EXEC".into()).into())
    }
}

impl<D> From<Unanswered> for Attempt<D> {
    fn from(Unanswered { error, may_be_done }: Unanswered) -> Self {
        let reason = reason(&error);
        if may_be_done { Attempt::Lost(reason) } else { Attempt::NotDone(reason) }
    }
}

/// What is to be committed.
pub(crate) trait Attempts {
    /// What a reply tells beyond that it is done.
    type Done;

    fn attempt(&mut self) -> Result<Attempt<Self::Done>>;

    /// What became of an attempt whose reply was lost: `true`, it is done; `false`, it is not, and can be made again.
    ///
    /// # Errors
    /// [`Cause::Stale`] if it can't be done any more; [`Cause::OutcomeUnknown`] if that can't be told any more.
    fn resolve(&mut self) -> Result<bool>;

    /// [`Cause::OutcomeUnknown`] for this reason.
    fn unknown(&self, reason: String) -> Error;
}

/// The time for attempts, which begins with the first lost connection.
struct Time {
    patience: Duration,
    begun: Instant,
    pause: Duration,
}

impl Time {
    fn new(patience: Duration) -> Self {
        Time { patience, begun: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Waits before the next attempt; `false` when the time is up.
    fn wait(&mut self) -> bool {
        if self.begun.elapsed() + self.pause >= self.patience {
            return false;
        }
        sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// Commits. `None` if the reply was lost and the commit found to be done.
///
/// # Errors
/// [`Cause::OutcomeUnknown`] if it can't be told whether it is done. All others mean that nothing was written.
pub(crate) fn commit<C: Attempts>(it: &mut C, patience: Duration) -> Result<Option<C::Done>> {
    let mut time: Option<Time> = None;
    let (mut lost, mut broken) = (None, 0);
    loop {
        let mut failed = None;
        match it.attempt() {
            Ok(Attempt::Done(done)) => return Ok(Some(done)),
            Ok(Attempt::NotDone(reason)) => {
                broken += 1;
                failed = Some(Cause::ConnectionLost(reason).into());
            }
            Ok(Attempt::Lost(reason)) => {
                broken += 1;
                lost = Some(reason);
            }
            Err(error) if broken == 0 => return Err(error),
            Err(error) => failed = Some(error),
        }
        let time = time.get_or_insert_with(|| Time::new(patience));
        if let Some(lost) = &lost
            && resolve(it, lost, time)?
        {
            return Ok(None);
        }
        let is_final = failed.as_ref().is_some_and(|error| !passes(&error.cause));
        if is_final || !time.wait() {
            return Err(match (lost, failed) {
                (None, Some(error)) if is_final => error,
                (None, Some(error)) => Cause::ConnectionLost(format!(
                    "{}; nothing was written{}",
                    reason(&error),
                    each_time(broken, time.begun.elapsed())
                ))
                .into(),
                (Some(lost), Some(error)) => it.unknown(format!("{lost}; and when it was sent again: {}", error.cause)),
                (lost, None) => {
                    let lost = lost.unwrap_or_default();
                    it.unknown(format!("{lost}{}", each_time(broken, time.begun.elapsed())))
                }
            });
        }
    }
}

/// Repeats [`Attempts::resolve`] until the server answers or the time is up.
fn resolve<C: Attempts>(it: &mut C, lost: &str, time: &mut Time) -> Result<bool> {
    loop {
        let error = match it.resolve() {
            Err(error) if !matches!(error.cause, Cause::Stale { .. } | Cause::OutcomeUnknown { .. }) => error,
            outcome => return outcome,
        };
        if !passes(&error.cause) || !time.wait() {
            return Err(it.unknown(format!("{lost}; and then: {}", error.cause)));
        }
    }
}

fn reason(error: &Error) -> String {
    match &error.cause {
        Cause::ConnectionLost(reason) => reason.clone(),
        other => other.to_string(),
    }
}

/// What repeated losses point to.
fn each_time(broken: u32, time: Duration) -> String {
    if broken < 2 {
        return String::new();
    }
    format!(
        "; in {} ms it was sent {broken} times, and each time the connection was lost: the server or a proxy may limit \
         the size of a request (proto-max-bulk-len, client-query-buffer-limit, maxmemory-clients)",
        time.as_millis()
    )
}

/// Whether a failure may be over when the same is tried again.
fn passes(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::ConnectionLost(_)
            | Cause::NoReply
            | Cause::Unreachable(_)
            | Cause::NoConnectionLeft(_)
            | Cause::IsReplica(_)
            | Cause::Loading(_)
            | Cause::Moving(_)
            | Cause::TooFewReplicas(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::version::{CommitId, Version};

    /// A commit whose attempts and questions end as written down; the last goes on for ever.
    struct Script {
        attempts: Vec<fn() -> Result<Attempt<()>>>,
        answers: Vec<fn() -> Result<bool>>,
        made: usize,
        asked: usize,
    }

    impl Attempts for Script {
        type Done = ();

        fn attempt(&mut self) -> Result<Attempt<()>> {
            self.made += 1;
            self.attempts[(self.made - 1).min(self.attempts.len() - 1)]()
        }

        fn resolve(&mut self) -> Result<bool> {
            self.asked += 1;
            self.answers[(self.asked - 1).min(self.answers.len() - 1)]()
        }

        fn unknown(&self, reason: String) -> Error {
            Cause::OutcomeUnknown { version: Version(7), commit: CommitId(1), reason }.into()
        }
    }

    fn done() -> Result<Attempt<()>> {
        Ok(Attempt::Done(()))
    }

    fn lost() -> Result<Attempt<()>> {
        Ok(Attempt::Lost("broken pipe".into()))
    }

    fn not_done() -> Result<Attempt<()>> {
        Ok(Attempt::NotDone("broken pipe".into()))
    }

    fn full() -> Result<Attempt<()>> {
        Err(Cause::ServerFull("OOM".into()).into())
    }

    fn away() -> Result<Attempt<()>> {
        Err(Cause::Unreachable("refused".into()).into())
    }

    fn stale() -> Result<bool> {
        Err(Cause::Stale { snapshot: Version(6), found: Version(7) }.into())
    }

    fn run(attempts: &[fn() -> Result<Attempt<()>>], answers: &[fn() -> Result<bool>]) -> (Result<Option<()>>, Script) {
        let mut script = Script { attempts: attempts.to_vec(), answers: answers.to_vec(), made: 0, asked: 0 };
        let outcome = commit(&mut script, Duration::from_millis(200));
        (outcome, script)
    }

    #[test]
    fn each_loss_has_its_outcome() {
        let not_there: fn() -> Result<bool> = || Ok(false);
        let there: fn() -> Result<bool> = || Ok(true);
        assert!(matches!(run(&[done], &[not_there]).0, Ok(Some(()))));
        assert!(matches!(run(&[not_done, done], &[not_there]).0, Ok(Some(()))));
        assert!(matches!(run(&[lost, done], &[not_there]).0, Ok(Some(()))));
        assert!(matches!(run(&[lost], &[there]).0, Ok(None)));
        let cause = |attempts: &[fn() -> Result<Attempt<()>>], answers: &[fn() -> Result<bool>]| {
            run(attempts, answers).0.unwrap_err().cause
        };
        assert!(matches!(cause(&[full], &[there]), Cause::ServerFull(_)));
        assert!(matches!(cause(&[away], &[there]), Cause::Unreachable(_)));
        assert!(matches!(cause(&[not_done, full], &[there]), Cause::ServerFull(_)));
        assert!(matches!(cause(&[lost], &[stale]), Cause::Stale { .. }));
        assert!(matches!(cause(&[lost, full], &[not_there]), Cause::OutcomeUnknown { .. }), "the first may arrive");
        assert!(matches!(cause(&[lost, not_done], &[not_there]), Cause::OutcomeUnknown { .. }));
        assert!(matches!(cause(&[not_done, away], &[there]), Cause::ConnectionLost(_)));
    }

    #[test]
    fn a_commit_that_is_cut_off_each_time_ends_after_a_few_attempts() {
        for (attempt, expected) in [(lost as fn() -> Result<Attempt<()>>, "unknown"), (not_done, "nothing was written")]
        {
            let begun = Instant::now();
            let (outcome, script) = run(&[attempt], &[|| Ok(false)]);
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("proto-max-bulk-len"), "{error}");
            assert!((3..20).contains(&script.made), "{} attempts", script.made);
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
    }
}
