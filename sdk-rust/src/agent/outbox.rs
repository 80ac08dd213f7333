//! What was said up the stream and not answered yet. Pure: time is a parameter.
//!
//! Every frame has a number, unique in the agent's life, which its answer carries. Until then the frame is kept, and said again
//! after a resume with the same `request_id`: a result is never lost while its session lives. When the session ends,
//! everything is given up. Of an attempt's progress only the newest is kept while an older one is under way.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use pb::connect_request::Frame;

use super::attempts::AttemptKey;
use crate::backoff::Backoff;

/// A frame that was not answered yet; `R` is whoever waits for the answer.
#[derive(Debug)]
pub(crate) struct Entry<R> {
    frame: Frame,
    reply: Option<R>,
    /// Set while the server wants it to be said again later.
    again_at: Option<Instant>,
    /// Grows each time that the server puts it off.
    backoff: Backoff,
    progress_of: Option<AttemptKey>,
}

impl<R> Entry<R> {
    pub(crate) fn reply(&mut self) -> Option<R> {
        self.reply.take()
    }
}

/// The frames that were not answered yet.
#[derive(Debug)]
pub(crate) struct Outbox<R> {
    last_number: u64,
    unanswered: BTreeMap<u64, Entry<R>>,
    /// For attempts with a progress report under way: the newest after it.
    progress: HashMap<AttemptKey, Option<pb::ReportProgressRequest>>,
}

impl<R> Outbox<R> {
    pub(crate) fn new() -> Self {
        Self {
            last_number: 0,
            unanswered: BTreeMap::new(),
            progress: HashMap::new(),
        }
    }

    /// A number for a frame that is not kept: a hello, a heartbeat.
    pub(crate) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Keeps a frame until it is answered; returns what to send.
    pub(crate) fn push(&mut self, frame: Frame, reply: Option<R>) -> pb::ConnectRequest {
        self.keep(frame, reply, None)
    }

    /// Keeps a progress report; returns what to send, if none of the attempt is under way.
    pub(crate) fn progress(
        &mut self,
        key: &AttemptKey,
        report: pb::ReportProgressRequest,
    ) -> Option<pb::ConnectRequest> {
        if let Some(newest) = self.progress.get_mut(key) {
            *newest = Some(report);
            return None;
        }
        self.progress.insert(key.clone(), None);
        Some(self.keep(Frame::ReportProgress(report), None, Some(key.clone())))
    }

    fn keep(&mut self, frame: Frame, reply: Option<R>, progress_of: Option<AttemptKey>) -> pb::ConnectRequest {
        let number = self.number();
        let sent = pb::ConnectRequest {
            request_number: number,
            frame: Some(frame.clone()),
        };
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let entry = Entry {
            frame,
            reply,
            again_at: None,
            backoff,
            progress_of,
        };
        self.unanswered.insert(number, entry);
        sent
    }

    /// A frame is answered for good; also returns what may be sent now that it is.
    pub(crate) fn answered(&mut self, number: u64) -> (Option<Entry<R>>, Option<pb::ConnectRequest>) {
        let Some(entry) = self.unanswered.remove(&number) else {
            return (None, None);
        };
        let newest = entry.progress_of.as_ref().and_then(|key| {
            let newest = self.progress.remove(key).flatten()?;
            Some((key.clone(), newest))
        });
        let next = newest.and_then(|(key, report)| self.progress(&key, report));
        (Some(entry), next)
    }

    /// The server wants a frame to be said again later, at the earliest after `hint`.
    pub(crate) fn put_off(&mut self, number: u64, now: Instant, hint: Option<Duration>) {
        if let Some(entry) = self.unanswered.get_mut(&number) {
            entry.again_at = Some(now + entry.backoff.wait_after(hint));
        }
    }

    /// What was put off and is due.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<pb::ConnectRequest> {
        let due = self
            .unanswered
            .iter_mut()
            .filter(|(_, entry)| entry.again_at.is_some_and(|at| at <= now));
        due.map(again).collect()
    }

    /// When something is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.unanswered.values().filter_map(|entry| entry.again_at).min()
    }

    /// Everything, in order, for a stream that has resumed the session.
    pub(crate) fn resend(&mut self) -> Vec<pb::ConnectRequest> {
        self.unanswered.iter_mut().map(again).collect()
    }

    /// An attempt is over: its progress is of no interest any more.
    pub(crate) fn attempt_over(&mut self, key: &AttemptKey) {
        self.progress.remove(key);
        self.unanswered
            .retain(|_, entry| entry.progress_of.as_ref() != Some(key));
    }

    /// The session is over: gives up everything, to tell those who wait.
    pub(crate) fn clear(&mut self) -> Vec<Entry<R>> {
        self.progress.clear();
        std::mem::take(&mut self.unanswered).into_values().collect()
    }

    /// The token of the attempt that a frame is about.
    pub(crate) fn attempt_token(&self, number: u64) -> Option<&str> {
        match &self.unanswered.get(&number)?.frame {
            Frame::AcceptTask(frame) => Some(&frame.attempt_token),
            Frame::RejectTask(frame) => Some(&frame.attempt_token),
            Frame::ReportProgress(frame) => Some(&frame.attempt_token),
            Frame::CompleteTask(frame) => Some(&frame.attempt_token),
            Frame::FailTask(frame) => Some(&frame.attempt_token),
            _ => None,
        }
    }

    /// Whether everything was answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }
}

fn again<R>((number, entry): (&u64, &mut Entry<R>)) -> pb::ConnectRequest {
    entry.again_at = None;
    pb::ConnectRequest {
        request_number: *number,
        frame: Some(entry.frame.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(request_id: &str) -> Frame {
        let request_id = request_id.to_owned();
        Frame::CompleteTask(pb::CompleteTaskRequest {
            request_id,
            ..Default::default()
        })
    }

    fn report(progress: f64) -> pb::ReportProgressRequest {
        pb::ReportProgressRequest {
            progress,
            ..Default::default()
        }
    }

    #[test]
    fn an_unanswered_result_is_said_again_with_its_number_and_request_id() {
        let mut outbox = Outbox::new();
        let first = outbox.push(complete("a"), Some("waiter a"));
        let second = outbox.push(complete("b"), Some("waiter b"));
        assert_ne!(first.request_number, second.request_number);
        let (entry, _) = outbox.answered(first.request_number);
        assert_eq!(entry.expect("an entry").reply(), Some("waiter a"));
        assert_eq!(outbox.resend(), std::slice::from_ref(&second));
        assert_eq!(outbox.resend(), [second], "until it is answered");
        assert!(outbox.answered(first.request_number).0.is_none(), "answered once");
    }

    #[test]
    fn what_is_put_off_is_due_then_and_once() {
        let now = Instant::now();
        let mut outbox = Outbox::<()>::new();
        let sent = outbox.push(complete("a"), None);
        outbox.put_off(sent.request_number, now, Some(Duration::from_secs(1)));
        let later = outbox.next_due().expect("it is put off");
        assert!(later >= now + Duration::from_secs(1));
        assert!(outbox.due(now).is_empty());
        assert_eq!(outbox.due(later), [sent]);
        assert!(outbox.due(later).is_empty() && !outbox.is_empty());
    }

    #[test]
    fn of_progress_the_newest_follows_the_one_under_way() {
        let key = AttemptKey {
            task_id: "t".into(),
            attempt: 1,
        };
        let mut outbox = Outbox::<()>::new();
        let first = outbox.progress(&key, report(0.1)).expect("sent at once");
        assert!(outbox.progress(&key, report(0.2)).is_none());
        assert!(outbox.progress(&key, report(0.3)).is_none());
        let (_, next) = outbox.answered(first.request_number);
        assert_eq!(
            next.expect("the newest").frame,
            Some(Frame::ReportProgress(report(0.3)))
        );
        outbox.attempt_over(&key);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_session_that_ended_gives_up_everything() {
        let mut outbox = Outbox::new();
        outbox.push(complete("a"), Some("waiter"));
        assert_eq!(outbox.clear().len(), 1);
        assert!(outbox.is_empty() && outbox.resend().is_empty());
    }
}
