//! The one thread that starts processes.

use std::io;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// Starts processes from a thread that lives as long as this does.
///
/// A child asks to be killed when its parent dies, and for the kernel its parent is the thread that
/// started it. A thread of tokio's pool may end at any time and would take healthy instances along.
#[derive(Debug)]
pub(super) struct Spawner {
    requests: mpsc::Sender<Spawn>,
}

struct Spawn {
    command: Command,
    answer: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    /// `waiting_max`: as many as its callers let start at once.
    pub(super) fn new(waiting_max: usize) -> io::Result<Self> {
        let (requests, mut received) = mpsc::channel::<Spawn>(waiting_max);
        let runtime = Handle::current();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                while let Some(Spawn {
                    mut command,
                    answer,
                }) = received.blocking_recv()
                {
                    let _inside = runtime.enter();
                    // If nobody wants it any more, dropping the child kills it.
                    let _ = answer.send(command.kill_on_drop(true).spawn());
                }
            })?;
        Ok(Self { requests })
    }

    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, answered) = oneshot::channel();
        let ended = || io::Error::other("the spawner thread has ended");
        self.requests
            .send(Spawn { command, answer })
            .await
            .map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}
