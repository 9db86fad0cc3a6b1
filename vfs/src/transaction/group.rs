//! Databases that one transaction commits together (`ATTACH`).
//!
//! SQLite asks each database to commit with `SQLITE_FCNTL_SYNC`. Where a transaction writes to several
//! databases in Redis, that call only prepares the commit; what was prepared is published when SQLite can
//! still roll back all of it, but has asked everyone:
//!
//! ```text
//! the main database is in Redis     when SQLite deletes the super-journal
//! the main database is a file       at the SYNC of the last database in Redis
//! no super-journal                  the same; or at the first SQLITE_FCNTL_COMMIT_PHASETWO, where one of
//!                                   them has nothing to commit and is not asked, or files are asked later
//! ```
//!
//! SQLite has no super-journal where only one database needs a rollback journal on disk: a file with
//! `synchronous=OFF`, in WAL mode, or with its journal in memory does not count.
//!
//! The databases of one server are one `MULTI`/`EXEC`. Of several servers each is asked all that it could
//! refuse, then they publish one after the other; if one refuses in spite of that, those before it are
//! taken back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::config::Wait;
use crate::database::Database;
use crate::lease::Lease;
use crate::model::error::{Cause, Error, Result};
use crate::process::PerProcess;
use crate::process::sync::Mutex;
use crate::store::redis::together::{Bundle, Part, Published};
use crate::transaction::journal::{Notes, SuperJournals};
use crate::transaction::prepared::{Prepared, take_back};

/// One database's part in the commit.
pub(crate) struct Member {
    pub database: Arc<Database>,
    pub lease: Lease,
    pub prepared: Prepared,
    pub wait: Wait,
}

/// The commits of one transaction.
#[derive(Default)]
pub(crate) struct Group {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Each at its index; `None` once its database has taken it back into its hands.
    members: Vec<Option<Member>>,
    /// `None` until they are published.
    outcome: Option<Result<()>>,
}

impl Group {
    /// Adds a database. Returns its index.
    pub(crate) fn join(&self, member: Member) -> usize {
        let mut state = self.state.lock();
        state.members.push(Some(member));
        state.members.len() - 1
    }

    /// Publishes all commits or none. Called again, it answers the same.
    pub(crate) fn publish(&self) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(outcome) = &state.outcome {
            return outcome.clone();
        }
        let outcome = match state.members.iter_mut().map(Option::as_mut).collect::<Option<Vec<_>>>() {
            Some(members) => publish(members),
            None => Err(Cause::Internal("a database has left the transaction".into()).into()),
        };
        state.outcome = Some(outcome.clone());
        outcome
    }

    /// Hands a database its part, and what became of it; `None` where it was never published.
    pub(crate) fn leave(&self, index: usize) -> (Option<Member>, Option<Result<()>>) {
        let mut state = self.state.lock();
        let member = state.members.get_mut(index).and_then(Option::take);
        (member, state.outcome.clone())
    }

    fn is_over(&self) -> bool {
        let state = self.state.lock();
        !state.members.is_empty() && state.members.iter().all(Option::is_none)
    }
}

/// Publishes the commits of all members.
fn publish(mut members: Vec<&mut Member>) -> Result<()> {
    // Commits that can't be taken back are published last.
    members.sort_by_key(|member| !member.prepared.is_reversible());
    let mut servers: Vec<Vec<&mut Member>> = Vec::new();
    for member in members {
        let same = |group: &&mut Vec<&mut Member>| group[0].lease.joins(&member.lease);
        match servers.iter_mut().rev().find(same) {
            Some(group) => group.push(member),
            None => servers.push(vec![member]),
        }
    }
    // So is every server that has one.
    servers.sort_by_key(|group| group.iter().any(|member| !member.prepared.is_reversible()));
    let several = servers.len() > 1;
    let (published, failure) = publish_each(&mut servers, several)?;
    let Some(failure) = failure else { return Ok(()) };
    // One database that lacks replicas is reported as it is by itself: written, but not safe.
    if !several && servers[0].len() == 1 && published == 1 {
        return Err(failure);
    }
    let mut kept = None;
    for member in servers[..published].iter_mut().flatten() {
        if let Err(error) = take_back(&member.database, &mut member.lease, &member.prepared) {
            crate::process::log::log(&error.to_string());
            kept.get_or_insert(error);
        }
    }
    Err(match kept {
        None => failure,
        Some(kept) => refused_elsewhere(kept, &failure),
    })
}

/// The error where one database refused the commit and another could not take its part back.
pub(crate) fn refused_elsewhere(mut kept: Error, refused: &Error) -> Error {
    if let Cause::HalfCommitted { reason, .. } = &mut kept.cause {
        *reason = format!("{reason}; it was to be taken back since the commit was refused elsewhere: {refused}");
    }
    kept
}

/// How many of the servers have published, and why it is not all of them, or why that is not enough.
fn publish_each(servers: &mut [Vec<&mut Member>], several: bool) -> Result<(usize, Option<Error>)> {
    let mut bundles = servers.iter_mut().map(|group| bundle(group, several)).collect::<Result<Vec<_>>>()?;
    if several {
        bundles.iter_mut().try_for_each(Bundle::prove)?;
    }
    for published in 0..bundles.len() {
        match bundles[published].publish() {
            Published::Done => {}
            Published::NotReplicated(error) => return Ok((published + 1, Some(error))),
            Published::Refused(error) => return Ok((published, Some(error))),
            Published::Unknown(error) => {
                drop(bundles);
                return Err(half_known(error, &servers[..published]));
            }
        }
    }
    Ok((bundles.len(), None))
}

fn half_known(mut error: Error, published: &[Vec<&mut Member>]) -> Error {
    let done: Vec<&str> = published.iter().flatten().map(|member| &*member.database.place).collect();
    if let Cause::OutcomeUnknown { reason, .. } = &mut error.cause
        && !done.is_empty()
    {
        *reason = format!("{reason}; the same transaction is committed in {}", done.join(" and "));
    }
    error
}

fn bundle<'a>(members: &'a mut [&mut Member], several: bool) -> Result<Bundle<'a>> {
    let parts = members.iter_mut().map(|member| {
        let Member { database, lease, prepared, wait } = &mut **member;
        let stage = prepared.stage.take();
        Part { place: &database.place, writer: lease.writer(), commit: prepared.commit(), stage, wait: *wait }
    });
    Bundle::new(parts.collect(), several)
}

/// A database that a connection writes to in its transaction.
pub(crate) struct Participant {
    /// Of its rollback journal. If SQLite has written to that, it will send `SQLITE_FCNTL_SYNC`.
    journal: Arc<Notes>,
    /// SQLite has sent it.
    asked: AtomicBool,
}

impl Participant {
    fn new(journal: Arc<Notes>) -> Self {
        journal.reset();
        Participant { journal, asked: AtomicBool::new(false) }
    }

    /// The next transaction begins, under the same lock.
    pub(crate) fn reset(&self) {
        self.journal.reset();
        self.asked.store(false, Relaxed);
    }
}

/// When the commit of one database is published.
#[derive(Clone)]
pub(crate) enum Moment {
    /// At once: no other database takes part.
    Alone,
    /// With others, at once: all of them are asked.
    Now(Arc<Group>),
    /// With others, later.
    Later(Arc<Group>),
    /// At `SQLITE_FCNTL_COMMIT_PHASETWO`, after files have been asked. An error there must be an I/O error, so that SQLite
    /// drops its page cache. So the version is compared now, while the error can be `SQLITE_BUSY_SNAPSHOT`.
    PhaseTwo(Arc<Group>),
}

/// The files that the transaction of a database in Redis writes to as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    None,
    /// SQLite asks all of them to commit later than the database.
    After,
    /// SQLite has asked some of them already.
    Before,
}

/// Those of this process.
pub(crate) static PARTICIPANTS: PerProcess<Participants> = PerProcess::new();

/// The databases that each connection of this process writes to, by the connection's address.
#[derive(Default)]
pub(crate) struct Participants(Mutex<HashMap<usize, Transaction>>);

#[derive(Default)]
struct Transaction {
    participants: Vec<Arc<Participant>>,
    group: Option<Arc<Group>>,
}

impl Participants {
    /// Registers a database that the connection writes to. Connection 0 stands for an unknown one.
    pub(crate) fn enter(&self, connection: usize, journal: Arc<Notes>) -> Arc<Participant> {
        let participant = Arc::new(Participant::new(journal));
        if connection != 0 {
            self.0.lock().entry(connection).or_default().participants.push(participant.clone());
        }
        participant
    }

    /// Removes a database whose write transaction has ended.
    pub(crate) fn leave(&self, connection: usize, participant: &Arc<Participant>) {
        let mut transactions = self.0.lock();
        let Some(transaction) = transactions.get_mut(&connection) else { return };
        transaction.participants.retain(|other| !Arc::ptr_eq(other, participant));
        if transaction.participants.is_empty() {
            transactions.remove(&connection);
        }
    }

    /// When to publish the commit of `participant`, which is asked for now, in a transaction that has this
    /// super-journal. One that is not among `journals` is a file.
    pub(crate) fn moment(
        &self,
        connection: usize,
        participant: &Arc<Participant>,
        super_journal: Option<&str>,
        files: Files,
        journals: &SuperJournals,
    ) -> Moment {
        participant.asked.store(true, Relaxed);
        let mut transactions = self.0.lock();
        let mut unknown = Transaction::default();
        let transaction = transactions.get_mut(&connection).unwrap_or(&mut unknown);
        let others = || transaction.participants.iter().filter(|other| !Arc::ptr_eq(other, participant));
        if others().next().is_none() && super_journal.is_none() && files == Files::None {
            return Moment::Alone;
        }
        let mut unasked = others().filter(|other| !other.asked.load(Relaxed)).peekable();
        let all_asked = unasked.peek().is_none();
        let awaited = unasked.any(|other| other.journal.is_written());
        if transaction.group.as_ref().is_none_or(|group| group.is_over()) {
            transaction.group = Some(Arc::default());
        }
        let group = transaction.group.clone().unwrap_or_default();
        match super_journal.map(|name| journals.bind(name, &group)) {
            Some(Some(group)) => Moment::Later(group),
            // SQLite skips databases whose journal is empty.
            Some(None) if !awaited => Moment::Now(group),
            // If a file refuses, SQLite does not send `SQLITE_FCNTL_COMMIT_PHASETWO`.
            None if files == Files::After => Moment::PhaseTwo(group),
            // SQLite may keep these journals in its own memory, so an empty one proves nothing here.
            None if all_asked => Moment::Now(group),
            Some(None) | None => Moment::Later(group),
        }
    }
}

#[cfg(test)]
mod commits;
#[cfg(test)]
mod tests {
    use super::*;

    fn publishes(moment: &Moment) -> &'static str {
        match moment {
            Moment::Alone => "alone",
            Moment::Now(_) => "now",
            Moment::Later(_) => "later",
            Moment::PhaseTwo(_) => "phase two",
        }
    }

    #[test]
    fn a_commit_waits_for_the_databases_that_are_yet_to_be_asked() {
        let (participants, journals) = (Participants::default(), SuperJournals::default());
        let moment = |connection, participant, name| {
            publishes(&participants.moment(connection, participant, name, Files::None, &journals))
        };
        let enter = |connection| participants.enter(connection, Notes::new("test".into()));
        let (one, two, other) = (enter(7), enter(7), enter(8));
        assert_eq!(moment(8, &other, None), "alone");
        assert_eq!(moment(7, &one, None), "later", "until SQLITE_FCNTL_COMMIT_PHASETWO");
        assert_eq!(moment(7, &two, None), "now", "all are asked");
        one.reset();
        two.reset();
        two.journal.set_written();
        let file = Some("/tmp/x.db-mj000000900");
        assert_eq!(moment(7, &one, file), "later");
        assert_eq!(moment(7, &two, file), "now");
        let ours = "shop-mj000000900";
        assert!(journals.open(ours, true).is_some());
        assert_eq!(moment(7, &two, Some(ours)), "later", "until its deletion");
        assert!(journals.group(ours).is_some());
        participants.leave(7, &two);
        assert_eq!(moment(7, &one, None), "alone");
        let beside = |files| publishes(&participants.moment(7, &one, None, files, &journals));
        assert_eq!(beside(Files::After), "phase two");
        assert_eq!(beside(Files::Before), "now", "and taken back if SQLite rolls back");
        participants.leave(7, &one);
        assert_eq!(participants.0.lock().len(), 1);
    }
}
