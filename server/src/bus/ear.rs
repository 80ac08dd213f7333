//! Those who listen, each behind a bounded queue that nobody waits for.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::{Heard, Hint};

/// How many hints wait for a listener.
const WAITING: usize = 512;

/// The listeners of a process.
#[derive(Default)]
pub(super) struct Ears {
    ears: Mutex<Vec<Ear>>,
}

struct Ear {
    queue: mpsc::Sender<Heard>,
    /// Whether the last that was put into the queue is an interruption.
    interrupted: bool,
}

impl Ears {
    pub(super) fn listen(&self) -> mpsc::Receiver<Heard> {
        let (queue, receiver) = mpsc::channel(WAITING);
        let ear = Ear {
            queue,
            interrupted: false,
        };
        self.ears.lock().unwrap_or_else(PoisonError::into_inner).push(ear);
        receiver
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Hands a hint to every listener; those who do not keep up find an interruption instead.
    pub(super) fn hint(&self, hint: &Hint) {
        self.each(|ear| ear.hint(hint));
    }

    /// Tells every listener that something may have been missed.
    pub(super) fn interrupt(&self) {
        self.each(Ear::interrupt);
    }

    fn each(&self, tell: impl Fn(&mut Ear)) {
        let mut ears = self.ears.lock().unwrap_or_else(PoisonError::into_inner);
        ears.retain_mut(|ear| {
            tell(ear);
            !ear.queue.is_closed()
        });
    }
}

impl Ear {
    fn hint(&mut self, hint: &Hint) {
        // The last place is kept for the interruption.
        if self.queue.capacity() < 2 {
            self.interrupt();
        } else {
            self.interrupted = false;
            self.put(Heard::Hint(hint.clone()));
        }
    }

    fn interrupt(&mut self) {
        // An interruption that is last in the queue and not taken out yet covers this one too.
        let is_there = self.interrupted && self.queue.capacity() < self.queue.max_capacity();
        if !is_there {
            self.interrupted = true;
            self.put(Heard::Interrupted);
        }
    }

    fn put(&self, heard: Heard) {
        // There is a place, or nobody listens any more.
        drop(self.queue.try_send(heard));
    }
}
