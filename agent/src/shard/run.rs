//! The loop of a shard: one thread, one current-thread runtime, one timer.

use std::collections::VecDeque;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::{Command, Core, Event, ShardError, ShardPlan, io};
use crate::net::timer::Timer;

/// Events that may wait for the engine. It takes them at once; a shard makes
/// two a second, so this is a quarter of an hour of an engine that hangs.
pub const EVENTS: usize = 2_048;
/// Commands that may wait for a shard: it is told three things in a run.
const COMMANDS: usize = 16;
/// Datagrams of one turn, after which timers get theirs.
const BATCH: usize = 64;

/// A shard that runs on its thread.
#[derive(Debug)]
pub struct Shard {
    /// What it is told.
    pub commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Shard {
    /// Waits for the thread to end; it does after `Done`.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic has been printed; the engine sees that no `Done` came.
            drop(thread.join());
        }
    }
}

/// Starts a shard, whose events carry `index`. Sockets and templates are made before this returns.
///
/// # Errors
/// [`ShardError`] when the plan cannot be carried out here.
pub fn spawn(
    name: String,
    index: usize,
    plan: ShardPlan,
    events: mpsc::Sender<(usize, Event)>,
    watcher: impl FnOnce() -> Option<io::Watcher> + Send + 'static,
) -> Result<Shard, ShardError> {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (made, is_made) = std::sync::mpsc::sync_channel(1);
    let label = name.clone();
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(made.send(Err(ShardError::Io("a runtime", error)))),
            };
            runtime.block_on(async move {
                let parts = Core::new(plan, &label)
                    .and_then(|core| Ok((core, Timer::new().map_err(|e| ShardError::Io("a timer", e))?)));
                match parts {
                    Ok((mut core, timer)) => {
                        // Whatever ends the thread, its engine is told.
                        let obituary = Obituary { index, events: events.clone() };
                        core.io.watcher = watcher();
                        drop(made.send(Ok(())));
                        run(core, timer, inbox, (index, events)).await;
                        drop(obituary);
                    }
                    Err(error) => drop(made.send(Err(error))),
                }
            });
        })
        .map_err(|e| ShardError::Io("a thread", e))?;
    match is_made.recv() {
        Ok(Ok(())) => Ok(Shard { commands, thread: Some(thread) }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ShardError::Io("a shard", std::io::Error::other("its thread ended at once"))),
    }
}

async fn run(
    mut core: Core,
    mut timer: Timer,
    mut commands: mpsc::Receiver<Command>,
    (index, events): (usize, mpsc::Sender<(usize, Event)>),
) {
    let mut unsent: VecDeque<Event> = VecDeque::new();
    let mut open = true;
    // With a quantum the timer alone wakes the loop: what has come meanwhile is read then, many
    // messages at a time. The kernel's stamps keep the latencies exact.
    let watching = !core.has_quantum();
    loop {
        unsent.extend(core.events.drain(..));
        while let Some(event) = unsent.pop_front() {
            let last = matches!(event, Event::Done { .. });
            match events.try_send((index, event)) {
                Ok(()) if last => return,
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full((_, event))) => {
                    unsent.push_front(event);
                    break;
                }
                // Nobody listens any more: there is no one to work for.
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
        let wake = core.next_turn();
        if timer.arm(wake).is_err() {
            return;
        }
        core.sleeps_until(wake);
        tokio::select! {
            biased;
            command = commands.recv(), if open => {
                let now = core.look();
                match command {
                    Some(Command::Start(at)) => core.start_at(at),
                    Some(Command::Drain) => core.drain(now),
                    Some(Command::Abort) => core.abort(now),
                    Some(Command::Leave) => core.leave(now),
                    Some(Command::LeaveNow) => core.leave_now(now),
                    None => {
                        // The engine is gone: load never runs unattended.
                        open = false;
                        core.drain(now);
                    }
                }
                core.turn();
            }
            fired = timer.fired() => {
                if fired.is_err() {
                    return;
                }
                core.turn();
                core.receive(BATCH);
                core.turn();
            }
            ready = std::future::poll_fn(|context| core.poll_readable(context)), if watching => {
                if ready.is_err() {
                    return;
                }
                core.receive(BATCH);
                core.turn();
            }
        }
    }
}

/// Tells the engine that a shard's thread is over; after an orderly end nobody listens.
struct Obituary {
    index: usize,
    events: mpsc::Sender<(usize, Event)>,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        let reason = "a shard's thread ended unexpectedly; its last words are in the log".to_owned();
        // With a full queue the engine sees the end of the queue itself.
        drop(self.events.try_send((self.index, Event::Done { interrupted: true, reason })));
    }
}
