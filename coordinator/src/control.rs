//! Runs for others: `adsum run --coordinator URL` sends a scenario with the
//! files that it names; progress, the results directory file by file, and the
//! exit code come back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};

use adsum_proto::v1::{self, run_event};
use adsum_proto::{MAX_MESSAGE, PROTOCOL_VERSION};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::fleet::{Fleet, FleetEvent};
use crate::plan::RunFacts;
use crate::run::{Progress, Setup, StopLevel, execute};
use crate::scenario::{self, Options};
use crate::users;

/// Events for one client that may wait. A client that does not read misses
/// progress, never files: those wait for it.
const EVENTS: usize = 64;
/// Bytes of a file in one message.
const CHUNK: usize = 256 * 1024;

/// What a coordinator serves with.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// CA of agents and operators, PEM.
    pub ca: Vec<u8>,
    /// Our certificate, PEM.
    pub cert: Vec<u8>,
    /// Its key, PEM.
    pub key: Vec<u8>,
}

/// A coordinator that takes agents and runs.
#[derive(Debug)]
pub struct Control {
    fleet: Fleet,
    events: Arc<Mutex<mpsc::Receiver<FleetEvent>>>,
    results: PathBuf,
    /// How to end the run that is on, if one is.
    stop: StdMutex<Weak<watch::Sender<StopLevel>>>,
}

impl Control {
    /// `results` is where runs get folders of their own.
    #[must_use]
    pub fn new(results: PathBuf) -> Control {
        let (fleet, events) = Fleet::new();
        Control { fleet, events: Arc::new(Mutex::new(events)), results, stop: StdMutex::default() }
    }

    /// Serves agents and runs on a listening socket, until it fails.
    ///
    /// # Errors
    /// Those of transport and TLS settings.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        tls: Option<Tls>,
    ) -> Result<(), tonic::transport::Error> {
        let mut server = Server::builder();
        if let Some(tls) = tls {
            // Client certificates are asked for; without one the handshake fails.
            let config = ServerTlsConfig::new()
                .identity(Identity::from_pem(&tls.cert, &tls.key))
                .client_ca_root(Certificate::from_pem(&tls.ca));
            server = server.tls_config(config)?;
        }
        let fleet = self.fleet.service();
        let control = v1::control_server::ControlServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        server.add_service(fleet).add_service(control).serve_with_incoming(incoming).await
    }

    fn setup(&self, request: v1::RunRequest) -> Result<Setup, Status> {
        if request.protocol_version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "this coordinator ({}) speaks protocol version {PROTOCOL_VERSION}, the command line {}: use the same release",
                env!("CARGO_PKG_VERSION"),
                request.protocol_version
            )));
        }
        // Variables and overrides were filled in where the file was read.
        let nothing = |_: &str| None;
        let options = Options { sets: &[], env: &nothing };
        let document = scenario::read(&request.scenario_name, &request.scenario, options)
            .map_err(|problems| Status::invalid_argument(problems.lines()))?;
        let s = &document.scenario;
        let population = users::of_scenario(s, &request.users_csv, &request.password_file)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let id = ulid::Ulid::generate();
        let seed = if request.seed_given { request.seed } else { s.seed.unwrap_or((id.0 as u64) >> 1) };
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64);
        let stamp = adsum_report::print::time(now).replace(':', "");
        let dir = self.results.join(format!("{stamp}_{}_{}", s.name, &id.to_string()[20..]));
        adsum_report::files::prepare(&dir, false).map_err(|e| Status::internal(e.to_string()))?;
        let facts = RunFacts {
            run_id: id.to_string(),
            seed,
            origin_unix_ns: 0,
            embedded: None,
            ca_pem: request.ca_pem,
            cert_pem: request.cert_pem,
            key_pem: request.key_pem,
        };
        let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
        Ok(Setup { document, population, facts, labels, dir, agents: self.fleet.hellos().len().max(1) })
    }
}

type Events = mpsc::Sender<Result<v1::RunEvent, Status>>;

fn event(event: run_event::Event) -> Result<v1::RunEvent, Status> {
    Ok(v1::RunEvent { event: Some(event) })
}

#[tonic::async_trait]
impl v1::control_server::Control for Control {
    type RunStream = Pin<Box<dyn Stream<Item = Result<v1::RunEvent, Status>> + Send>>;

    async fn run(&self, request: Request<v1::RunRequest>) -> Result<Response<Self::RunStream>, Status> {
        crate::certs::require(&request, crate::certs::Role::Operator)?;
        let Ok(mut events) = Arc::clone(&self.events).try_lock_owned() else {
            return Err(Status::failed_precondition(
                "another run is on; this coordinator does one at a time",
            ));
        };
        // What happened between runs is in the fleet's list already.
        while events.try_recv().is_ok() {}
        let setup = self.setup(request.into_inner())?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let (stop, stopped) = watch::channel(StopLevel::Go);
        let stop = Arc::new(stop);
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&stop);
        tokio::spawn(carry_out(self.fleet.clone(), events, setup, sender, (stop, stopped)));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stop(&self, request: Request<v1::StopRun>) -> Result<Response<v1::StopAnswer>, Status> {
        crate::certs::require(&request, crate::certs::Role::Operator)?;
        let v1::StopRun { at_once, exit_code } = request.into_inner();
        let code = if exit_code == 143 { 143 } else { 130 };
        let level = if at_once { StopLevel::Abort(code) } else { StopLevel::Drain(code) };
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let running = stop.is_some_and(|stop| stop.send(level).is_ok());
        Ok(Response::new(v1::StopAnswer { running }))
    }
}

async fn carry_out(
    fleet: Fleet,
    mut events: OwnedMutexGuard<mpsc::Receiver<FleetEvent>>,
    setup: Setup,
    client: Events,
    (stop, stopped): (Arc<watch::Sender<StopLevel>>, watch::Receiver<StopLevel>),
) {
    let dir = setup.dir.clone();
    let (lines, remarks) = (client.clone(), client.clone());
    let outcome = execute(
        &fleet,
        &mut events,
        setup,
        stopped,
        move |progress| {
            if lines.is_closed() {
                // Whoever asked for the load is gone: it ends, signed off and written.
                let _ = stop.send_if_modified(|level| {
                    let first = *level == StopLevel::Go;
                    *level = StopLevel::Drain(130);
                    first
                });
            } else {
                drop(lines.try_send(event(run_event::Event::Progress(on_the_wire(progress)))));
            }
        },
        move |text| drop(remarks.try_send(event(run_event::Event::Remark(text.to_owned())))),
    )
    .await;
    match outcome {
        Ok(outcome) => {
            if let Err(error) = send_files(&client, &dir).await {
                drop(client.send(Err(Status::aborted(error))).await);
                return;
            }
            let mut summary = outcome.summary;
            if let Some((error, diagnosis)) = outcome.not_ready {
                summary = format!("the run could not start: {error}\n  {diagnosis}\n{summary}");
            }
            let finished = v1::Finished { exit_code: u32::from(outcome.exit_code), summary };
            // A client that is gone finds everything in the coordinator's folder.
            drop(client.send(event(run_event::Event::Finished(finished))).await);
        }
        Err(error) => drop(client.send(Err(Status::aborted(error.to_string()))).await),
    }
}

fn on_the_wire(p: &Progress) -> v1::Progress {
    v1::Progress {
        phase: p.phase.to_owned(),
        step: p.step,
        steps: p.steps,
        step_name: p.step_name.clone(),
        elapsed_s: p.elapsed_s,
        left_s: (p.length_s - p.elapsed_s).max(0.0),
        offered_hz: p.offered_hz,
        sent_hz: p.sent_hz,
        registered: p.registered,
        users: p.users,
        p50_s: p.p50_s.unwrap_or(0.0),
        p99_s: p.p99_s.unwrap_or(0.0),
        missed: p.missed,
        failed: p.failed,
        send_lag_p99_s: p.send_lag_p99_s.unwrap_or(0.0),
        agents: p.agents,
        agents_expected: p.agents_expected,
        in_flight: p.in_flight,
    }
}

/// Sends every file of a results directory. A client that is gone finds them here.
///
/// # Errors
/// Which file cannot be read: a client must not take half of the results for the whole.
async fn send_files(client: &Events, dir: &Path) -> Result<(), String> {
    let cannot = |path: &Path, error: std::io::Error| {
        format!(
            "the results cannot be sent: {}: {error}; what was written lies on the coordinator in {}",
            path.display(),
            dir.display()
        )
    };
    for folder in [dir.to_owned(), dir.join("failures")] {
        if folder != dir && !folder.exists() {
            continue; // nothing failed
        }
        let entries = std::fs::read_dir(&folder).map_err(|e| cannot(&folder, e))?;
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| cannot(&folder, e))?.path();
            files.extend(path.is_file().then_some(path));
        }
        files.sort();
        for file in files {
            let name = file.strip_prefix(dir).unwrap_or(&file).to_string_lossy().into_owned();
            let bytes = std::fs::read(&file).map_err(|e| cannot(&file, e))?;
            let mut chunks = bytes.chunks(CHUNK).peekable();
            loop {
                let data = chunks.next().unwrap_or_default().to_vec();
                let last = chunks.peek().is_none();
                let chunk = v1::FileChunk { path: name.clone(), data, last };
                if client.send(event(run_event::Event::File(chunk))).await.is_err() {
                    return Ok(());
                }
                if last {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// A client's end of a run. When `stopped` changes, the coordinator is told to
/// drain the run, or to end it at once, and the results still come.
///
/// # Errors
/// What the coordinator refused, or why the stream broke.
pub async fn request(
    channel: tonic::transport::Channel,
    request: v1::RunRequest,
    dir: &Path,
    mut stopped: watch::Receiver<StopLevel>,
    mut progress: impl FnMut(&v1::Progress),
    mut remark: impl FnMut(&str),
) -> Result<v1::Finished, String> {
    let mut client = v1::control_client::ControlClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let mut stream = client.run(request).await.map_err(|s| s.message().to_owned())?.into_inner();
    let mut file: Vec<u8> = Vec::new();
    loop {
        let message = tokio::select! {
            message = stream.message() => message.map_err(|s| s.message().to_owned())?,
            Ok(()) = stopped.changed() => {
                let (at_once, code) = match *stopped.borrow_and_update() {
                    StopLevel::Go => continue,
                    StopLevel::Drain(code) => (false, code),
                    StopLevel::Abort(code) => (true, code),
                };
                let stop = v1::StopRun { at_once, exit_code: u32::from(code) };
                client.stop(stop).await.map_err(|s| s.message().to_owned())?;
                continue;
            }
        };
        match message.and_then(|m| m.event) {
            Some(run_event::Event::Progress(p)) => progress(&p),
            Some(run_event::Event::Remark(text)) => remark(&text),
            Some(run_event::Event::File(chunk)) => {
                file.extend(chunk.data);
                if chunk.last {
                    let bytes = std::mem::take(&mut file);
                    write_file(dir, &chunk.path, &bytes)?;
                }
            }
            Some(run_event::Event::Finished(finished)) => return Ok(finished),
            None => return Err("the coordinator ended the stream before the run was over".to_owned()),
        }
    }
}

/// Only names that a results directory has: nothing is written outside it.
fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), String> {
    let plain = |part: &str| {
        !part.is_empty()
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let (folder, file) = match name.split_once('/') {
        Some(("failures", file)) => (dir.join("failures"), file),
        None => (dir.to_owned(), name),
        Some(_) => return Err(format!("the coordinator sent a file called {name:?}")),
    };
    if !plain(file) {
        return Err(format!("the coordinator sent a file called {name:?}"));
    }
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    adsum_report::files::write_whole(&folder, file, bytes).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_in_their_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_file(dir.path(), "steps.csv", b"x").is_ok());
        assert!(write_file(dir.path(), "failures/001-pool-sip-503.txt", b"x").is_ok());
        for wrong in ["../x", "/etc/x", "failures/../x", "other/x", "", "a b"] {
            assert!(write_file(dir.path(), wrong, b"x").is_err(), "{wrong}");
        }
    }

    #[test]
    fn results_that_cannot_be_read_are_not_sent_as_empty_ones() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.csv"), "x").unwrap();
        let (sender, mut events) = mpsc::channel(8);
        runtime.block_on(send_files(&sender, dir.path())).unwrap();
        assert!(matches!(events.try_recv().unwrap().unwrap().event, Some(run_event::Event::File(_))));
        let gone = dir.path().join("gone");
        let error = runtime.block_on(send_files(&sender, &gone)).unwrap_err();
        assert!(error.contains("gone") && error.contains("lies on the coordinator"), "{error}");
        assert!(events.try_recv().is_err());
    }
}
