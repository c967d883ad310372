//! The loop of a shard: one thread, one current-thread runtime, one timer; with a quantum only the
//! thread.

use std::collections::VecDeque;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::{Command, Core, Event, ShardError, ShardPlan, io};
use crate::net::clock;
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
    let mut reports = Reports { index, events, unsent: VecDeque::new() };
    if core.has_quantum() {
        return tick(core, commands, reports).await;
    }
    let mut open = true;
    loop {
        if reports.hand_over(&mut core) {
            return;
        }
        let wake = core.next_turn();
        if timer.arm(wake).is_err() {
            return;
        }
        core.sleeps_until(wake);
        tokio::select! {
            biased;
            command = commands.recv(), if open => {
                open = command.is_some();
                core.obey(command);
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
            ready = std::future::poll_fn(|context| core.poll_readable(context)) => {
                if ready.is_err() {
                    return;
                }
                core.receive(BATCH);
                core.turn();
            }
        }
    }
}

/// With a quantum the clock alone wakes the loop: what has come meanwhile is read then, many messages
/// at a time, and the kernel's stamps keep the latencies exact. The thread sleeps in one system call: what
/// lives beside the loop, which is only questions to name servers, has its turn at the ticks.
async fn tick(mut core: Core, mut commands: mpsc::Receiver<Command>, mut reports: Reports) {
    clock::sleep_exactly();
    let mut open = true;
    loop {
        if reports.hand_over(&mut core) {
            return;
        }
        let wake = core.next_turn();
        core.sleeps_until(wake);
        clock::sleep_until(wake);
        if core.io.names.is_asking() {
            tokio::task::yield_now().await;
        }
        while open {
            match commands.try_recv() {
                Ok(command) => core.obey(Some(command)),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    open = false;
                    core.obey(None);
                }
            }
        }
        core.turn();
        core.receive(BATCH);
        core.turn();
    }
}

impl Core {
    /// Does as it is told. `None`: the engine is gone, and load never runs unattended.
    fn obey(&mut self, command: Option<Command>) {
        let now = self.look();
        match command {
            Some(Command::Start(at)) => self.start_at(at),
            Some(Command::Abort) => self.abort(now),
            Some(Command::Leave) => self.leave(now),
            Some(Command::LeaveNow) => self.leave_now(now),
            Some(Command::Drain) | None => self.drain(now),
        }
    }
}

/// What is told to the engine.
struct Reports {
    index: usize,
    events: mpsc::Sender<(usize, Event)>,
    /// What it had no room for.
    unsent: VecDeque<Event>,
}

impl Reports {
    /// Hands over what there is. `true` if it is over: all is told, or nobody listens any more.
    fn hand_over(&mut self, core: &mut Core) -> bool {
        self.unsent.extend(core.events.drain(..));
        while let Some(event) = self.unsent.pop_front() {
            let last = matches!(event, Event::Done { .. });
            match self.events.try_send((self.index, event)) {
                Ok(()) if last => return true,
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full((_, event))) => {
                    self.unsent.push_front(event);
                    break;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return true,
            }
        }
        false
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
