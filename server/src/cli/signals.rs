//! Signals: what ends a command from outside.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// Runs a command until it is done or interrupted. What it waits for is given up: a place in a queue is left.
pub async fn interruptible(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut orders = Orders::listen()?;
    tokio::select! {
        biased;
        done = command => done,
        order = orders.next() => Err(Failure::Code(order.exit_code())),
    }
}

/// Resolves when standard input ends. Whoever starts a process for itself keeps the other end of a pipe: when it goes, however it
/// goes, the process hears of it here.
pub async fn end_of_input() {
    let (end, ended) = tokio::sync::oneshot::channel();
    // In a thread of its own, which is never waited for: this read cannot be given up.
    std::thread::spawn(move || {
        let _all = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // Who waited may have gone.
        let _heard = end.send(());
    });
    let _ended = ended.await;
}

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// SIGINT
    Interrupt,
    /// SIGTERM
    Terminate,
    /// SIGHUP
    HangUp,
}

impl Order {
    /// The signal itself.
    pub fn signal(self) -> rustix::process::Signal {
        match self {
            Order::Interrupt => rustix::process::Signal::INT,
            Order::Terminate => rustix::process::Signal::TERM,
            Order::HangUp => rustix::process::Signal::HUP,
        }
    }

    /// What a shell makes of a process that the signal has ended.
    pub fn exit_code(self) -> u8 {
        match self {
            Order::Interrupt => 130,
            Order::Terminate => 143,
            Order::HangUp => 129,
        }
    }
}

/// The signals that ask the process to end, as they come.
#[derive(Debug)]
pub struct Orders {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Orders {
    /// From now on signals do not end the process by themselves.
    pub fn listen() -> Result<Orders, Failure> {
        Ok(Orders {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Order {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Order::Interrupt,
            Some(()) = self.terminate.recv() => Order::Terminate,
            Some(()) = self.hang_up.recv() => Order::HangUp,
            else => std::future::pending().await,
        }
    }
}
