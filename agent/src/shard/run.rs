//! The loop of a shard: one thread, one current-thread runtime, one timer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use adsum_presence::host::{Class, Flow, FlowError};
use adsum_sip::Time;
use tokio::sync::mpsc;

use super::{Command, Core, Event, ShardError, ShardPlan, io};
use crate::net::stream::Connection;
use crate::net::timer::Timer;

/// Events that may wait for the engine. It takes them at once; a shard makes
/// two a second, so this is a quarter of an hour of an engine that hangs.
pub const EVENTS: usize = 2_048;
/// Commands that may wait for a shard: it is told three things in a run.
const COMMANDS: usize = 16;
/// Datagrams of one turn, after which timers get theirs.
const BATCH: usize = 64;
/// A connection that is not there after this long is given up.
const CONNECT_LIMIT: Duration = Duration::from_secs(32);

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
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(made.send(Err(ShardError::Io("a runtime", error)))),
            };
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let parts = Core::new(plan)
                    .and_then(|core| Ok((core, Timer::new().map_err(|e| ShardError::Io("a timer", e))?)));
                match parts {
                    Ok((mut core, timer)) => {
                        core.io.watcher = watcher();
                        let priority = crate::host::priority();
                        drop(made.send(Ok(())));
                        run(core, timer, inbox, (index, events), priority).await;
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
    core: Core,
    mut timer: Timer,
    mut commands: mpsc::Receiver<Command>,
    (index, events): (usize, mpsc::Sender<(usize, Event)>),
    priority: String,
) {
    let core = Rc::new(RefCell::new(core));
    let mut unsent: VecDeque<Event> = VecDeque::new();
    let mut open = true;
    loop {
        let wake = {
            let mut core = core.borrow_mut();
            unsent.extend(core.events.drain(..).map(|event| with_priority(event, &priority)));
            core.next_turn()
        };
        open_lines(&core);
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
        if timer.arm(wake).is_err() {
            return;
        }
        let has_udp = core.borrow().io.udp.is_some();
        tokio::select! {
            biased;
            command = commands.recv(), if open => {
                let mut core = core.borrow_mut();
                let now = crate::net::clock::now();
                core.io.now = now;
                match command {
                    Some(Command::Start(at)) => core.start_at(at),
                    Some(Command::Drain) => core.drain(now),
                    Some(Command::Abort) => core.abort(now),
                    None => {
                        // The engine is gone: load never runs unattended.
                        open = false;
                        core.drain(now);
                    }
                }
                core.turn(Time::NEVER);
            }
            fired = timer.fired() => {
                if fired.is_err() {
                    return;
                }
                let mut core = core.borrow_mut();
                core.turn(wake);
                core.datagrams(BATCH);
            }
            ready = readable(&core), if has_udp => {
                if ready.is_err() {
                    return;
                }
                let mut core = core.borrow_mut();
                core.datagrams(BATCH);
                core.turn(Time::NEVER);
            }
        }
    }
}

fn with_priority(event: Event, priority: &str) -> Event {
    match event {
        Event::Ready(mut facts) => {
            facts.priority = priority.to_owned();
            Event::Ready(facts)
        }
        other => other,
    }
}

/// Waits for datagrams. The shard's cell is borrowed only while it is polled.
async fn readable(core: &Rc<RefCell<Core>>) -> std::io::Result<()> {
    std::future::poll_fn(|context| {
        let core = core.borrow();
        match &core.io.udp {
            Some(udp) => udp.poll_readable(context),
            None => std::task::Poll::Pending,
        }
    })
    .await
}

/// Starts a task for every connection that somebody wants.
fn open_lines(core: &Rc<RefCell<Core>>) {
    let wanted = std::mem::take(&mut core.borrow_mut().io.wanted);
    for flow in wanted {
        let generation = match core.borrow().io.lines.get(flow as usize) {
            Some(line) => line.generation,
            None => continue,
        };
        let task = tokio::task::spawn_local(line(Rc::clone(core), flow, generation));
        if let Some(line) = core.borrow_mut().io.lines.get_mut(flow as usize) {
            line.task = Some(task.abort_handle());
        }
    }
}

/// One connection: opened, read until it ends.
async fn line(core: Rc<RefCell<Core>>, flow: Flow, generation: u32) {
    let (dial, allowed) = {
        let core = core.borrow();
        let dial = core
            .io
            .dials
            .get((core.io.dial + flow as usize % core.io.dials.len().max(1)) % core.io.dials.len().max(1))
            .cloned();
        let allowed = dial.as_ref().is_some_and(|dial| core.io.allow.permits(dial.target.ip()));
        (dial, allowed)
    };
    let opened = match dial {
        Some(dial) if allowed => tokio::time::timeout(CONNECT_LIMIT, Connection::open(&dial))
            .await
            .unwrap_or_else(|_| Err(too_slow(&dial.target))),
        Some(dial) => Err(core.borrow().io.blocked(dial.target.ip())),
        None => Err(FlowError {
            class: Class::Configuration,
            code: "transport:connect",
            reason: "there is nowhere to connect to".into(),
            diagnosis: "give a target".into(),
        }),
    };
    let mine =
        |core: &Core| core.io.lines.get(flow as usize).is_some_and(|line| line.generation == generation);
    let stream = match opened {
        Ok(connection) => {
            let mut core = core.borrow_mut();
            if !mine(&core) {
                return;
            }
            let stream = Rc::clone(connection.stream());
            core.connected(flow, connection);
            core.turn(Time::NEVER);
            stream
        }
        Err(error) => {
            {
                let mut core = core.borrow_mut();
                if !mine(&core) {
                    return;
                }
                core.lost(flow, error, false);
                core.turn(Time::NEVER);
            }
            return poke(&core);
        }
    };
    loop {
        open_lines(&core);
        let blocked = {
            let core = core.borrow();
            if !mine(&core) {
                return;
            }
            core.io.lines[flow as usize].connection.as_ref().is_some_and(Connection::is_blocked)
        };
        let interest = if blocked {
            tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE
        } else {
            tokio::io::Interest::READABLE
        };
        let Ok(ready) = stream.ready(interest).await else { return };
        let mut core_now = core.borrow_mut();
        if !mine(&core_now) {
            return;
        }
        if let Some(connection) =
            core_now.io.lines[flow as usize].connection.as_mut().filter(|_| ready.is_writable())
        {
            connection.flush();
        }
        if (ready.is_readable() || ready.is_read_closed()) && !core_now.readable(flow, generation) {
            core_now.turn(Time::NEVER);
            drop(core_now);
            return open_lines(&core);
        }
        core_now.turn(Time::NEVER);
    }
}

/// What a task caused may need lines of its own.
fn poke(core: &Rc<RefCell<Core>>) {
    open_lines(core);
}

fn too_slow(target: &std::net::SocketAddr) -> FlowError {
    FlowError {
        class: Class::Network,
        code: "transport:connect",
        reason: format!("no connection to {target} within {} s", CONNECT_LIMIT.as_secs()),
        diagnosis: "look for firewalls between, and whether the pool still accepts connections".into(),
    }
}
