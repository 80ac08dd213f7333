//! A child process and all that it starts: signalled, stopped and waited for together.
//!
//! A child in a process group of its own is signalled with its descendants. Whatever happens to this process's tasks, a child that is
//! dropped is killed; what cannot be helped is SIGKILL to this process itself, after which the child runs on.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::Command;

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The child and its descendants, which are in a process group of their own.
    Group,
    /// The child alone, in this process's group: it shares the terminal.
    Process,
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    /// The process, for its pipes.
    pub process: tokio::process::Child,
    pid: Option<Pid>,
    reach: Reach,
    ended: bool,
}

impl Child {
    /// Starts a command.
    pub fn spawn(mut command: Command, reach: Reach) -> io::Result<Child> {
        command.kill_on_drop(true);
        if reach == Reach::Group {
            command.process_group(0);
        }
        let process = command.spawn()?;
        let pid = process
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Ok(Child {
            process,
            pid,
            reach,
            ended: false,
        })
    }

    /// Sends a signal. Who is gone needs none.
    pub fn signal(&self, signal: Signal) {
        let Some(pid) = self.pid else { return };
        let sent = match self.reach {
            Reach::Group => kill_process_group(pid, signal),
            Reach::Process if self.ended => return,
            Reach::Process => kill_process(pid, signal),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, ?signal, "a signal was not sent");
        }
    }

    /// Waits for the child's end. May be given up and called again.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.process.wait().await?;
        self.ended = true;
        Ok(status)
    }

    /// Asks the child to end, and kills it with all that is left of its group after a grace.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(grace, self.wait()).await;
        self.kill_group();
        match ended {
            Ok(status) => status,
            Err(_elapsed) => {
                self.signal(Signal::KILL);
                self.wait().await
            }
        }
    }

    /// Kills whatever the child has left behind.
    pub fn kill_group(&self) {
        if self.reach == Reach::Group {
            self.signal(Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
        }
    }
}

/// What a shell makes of an end: the exit code, or 128 + n where signal n was its end.
pub fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;
    use tokio::io::AsyncReadExt;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Child::spawn(command, Reach::Group).expect("a child")
    }

    #[tokio::test]
    async fn codes_and_signals_are_told_as_a_shell_does() {
        assert_eq!(exit_code(shell("exit 7").wait().await.expect("ended")), 7);
        assert_eq!(exit_code(shell("kill -9 $$").wait().await.expect("ended")), 137);
    }

    #[tokio::test]
    async fn a_child_that_does_not_listen_is_killed_with_its_own_children() {
        let mut child =
            shell("trap '' TERM; (trap '' TERM; while :; do sleep 0.05; done) & echo up; while :; do sleep 0.05; done");
        let mut stdout = child.process.stdout.take().expect("a pipe");
        let mut up = [0; 3];
        stdout.read_exact(&mut up).await.expect("it is up");
        let status = child.stop(Duration::from_millis(100)).await.expect("ended");
        assert_eq!(exit_code(status), 137);
        // The pipe ends only when its last holder has.
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stdout.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a grandchild lives on");
    }

    #[tokio::test]
    async fn a_child_that_listens_ends_by_itself() {
        let mut child = shell("trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done");
        let mut up = [0; 3];
        child
            .process
            .stdout
            .as_mut()
            .expect("a pipe")
            .read_exact(&mut up)
            .await
            .expect("it is up");
        assert_eq!(exit_code(child.stop(Duration::from_secs(10)).await.expect("ended")), 3);
    }
}
