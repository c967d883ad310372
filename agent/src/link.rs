//! The agent's end of the wire: dials out, introduces itself, carries out
//! plans, sends intervals until they are acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use adsum_proto::v1::{self, from_agent, to_agent};
use adsum_proto::{MAX_MESSAGE, PROTOCOL_VERSION};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};

use crate::engine::{AgentOptions, Engine, EngineEvent};
use crate::net::clock;

/// Messages to the coordinator that may wait in the stream. The engine makes
/// two a second; a coordinator that hangs for a minute is beyond it, and
/// unacknowledged intervals wait in a queue of their own.
const OUTBOX: usize = 256;
/// Intervals that are kept until they are acknowledged: four hours of them.
const UNACKED: usize = 4 * 3600;
/// How often an agent says that it is there.
const ALIVE: Duration = Duration::from_secs(5);
/// Round trips that are measured when an agent attaches.
const PROBES: usize = 8;

/// Who this agent is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name; unique in the fleet.
    pub name: String,
    /// Where it stands.
    pub site: String,
    /// This process.
    pub incarnation: u64,
}

/// How an agent's life ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The coordinator will not have it.
    #[error("the coordinator refused this agent: {0}")]
    Refused(String),
    /// The stream broke.
    #[error("the connection to the coordinator ended: {0}")]
    Lost(String),
    /// It speaks another version.
    #[error(
        "the coordinator speaks protocol version {theirs} ({software}), this agent {PROTOCOL_VERSION}: use the same release"
    )]
    Version {
        /// Theirs.
        theirs: u32,
        /// Their release.
        software: String,
    },
}

fn lost(error: impl std::fmt::Display) -> LinkError {
    LinkError::Lost(error.to_string())
}

/// A connection to a coordinator in this process.
///
/// # Errors
/// [`LinkError::Lost`] when the other end is gone.
pub async fn connect_memory(stream: tokio::io::DuplexStream) -> Result<Channel, LinkError> {
    let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
    Endpoint::from_static("http://adsum.invalid")
        .connect_with_connector(tower::service_fn(move |_| {
            let stream =
                stream.take().ok_or_else(|| std::io::Error::other("the connection in memory is used up"));
            async move { stream }
        }))
        .await
        .map_err(lost)
}

/// A connection to `unix:PATH`, or `http://host:port` on loopback.
///
/// # Errors
/// [`LinkError::Lost`] when nobody answers, or the address is none.
pub async fn connect(address: &str) -> Result<Channel, LinkError> {
    if let Some(path) = address.strip_prefix("unix:") {
        let path = path.to_owned();
        return Endpoint::from_static("http://adsum.invalid")
            .connect_with_connector(tower::service_fn(move |_| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
            }))
            .await
            .map_err(lost);
    }
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(lost)?;
    endpoint.connect_timeout(Duration::from_secs(10)).connect().await.map_err(lost)
}

/// A connection with TLS 1.3 to `https://host:port`, both sides with certificates.
///
/// # Errors
/// [`LinkError::Lost`], with why the other side's certificate was refused.
pub async fn connect_tls(address: &str, ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Channel, LinkError> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(TlsIdentity::from_pem(cert, key));
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(lost)?.tls_config(tls).map_err(lost)?;
    let reason = |error: tonic::transport::Error| {
        // The cause stands at the end of a chain of errors.
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        LinkError::Lost(text)
    };
    endpoint.connect_timeout(Duration::from_secs(10)).connect().await.map_err(reason)
}

/// Serves run after run on one connection, until it ends or `stop` says so.
///
/// # Errors
/// [`LinkError`]; load never outlives it for longer than draining takes.
pub async fn serve(
    channel: Channel,
    identity: &Identity,
    options: &AgentOptions,
    mut stop: watch::Receiver<bool>,
) -> Result<(), LinkError> {
    let mut client = v1::fleet_client::FleetClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let (outbox, stream) = mpsc::channel(OUTBOX);
    let outbox = Outbox(outbox);
    outbox.send(from_agent::Message::Hello(hello(identity, options))).await?;
    let mut inbox = client
        .attach(ReceiverStream::new(stream))
        .await
        .map_err(|status| LinkError::Refused(status.message().to_owned()))?
        .into_inner();
    let mut link = Link { offset_ns: 0, bound_ns: u64::MAX, unacked: VecDeque::new(), dropped: 0 };
    let mut plan: Option<(v1::Plan, Vec<v1::UserPair>)> = None;
    let mut engine: Option<Engine> = None;
    let mut probes = 0;
    let mut alive = tokio::time::interval(ALIVE);
    loop {
        tokio::select! {
            // An agent without a run would be silent, and a silent agent counts as lost.
            _ = alive.tick() => outbox.send(probe()).await?,
            message = inbox.message() => {
                let message = match message {
                    Ok(Some(message)) => message.message,
                    Ok(None) => return end(engine, Ok(())).await,
                    Err(status) => return end(engine, Err(lost(status.message()))).await,
                };
                match message {
                    Some(to_agent::Message::Welcome(welcome)) => {
                        if welcome.protocol_version != PROTOCOL_VERSION {
                            let (theirs, software) = (welcome.protocol_version, welcome.software_version);
                            return Err(LinkError::Version { theirs, software });
                        }
                        outbox.send(probe()).await?;
                    }
                    Some(to_agent::Message::ClockAnswer(answer)) => {
                        link.clock(answer);
                        probes += 1;
                        if probes < PROBES {
                            outbox.send(probe()).await?;
                        }
                    }
                    Some(to_agent::Message::Plan(new)) => plan = Some((new, Vec::new())),
                    Some(to_agent::Message::Users(chunk)) => {
                        if let Some((_, users)) = &mut plan {
                            users.extend(chunk.pairs);
                        }
                    }
                    Some(to_agent::Message::Start(start)) => {
                        if let Some(engine) = &engine {
                            engine.start(start.start_unix_ns);
                            let armed = v1::Armed { start_unix_ns: start.start_unix_ns, clock_bound_ns: link.bound_ns };
                            outbox.send(from_agent::Message::Armed(armed)).await?;
                        }
                    }
                    Some(to_agent::Message::Stop(stop)) => {
                        if let Some(engine) = &engine {
                            engine.stop(stop.abort);
                        }
                    }
                    Some(to_agent::Message::IntervalAck(ack)) => link.acked(ack.number),
                    Some(to_agent::Message::Refused(refused)) => {
                        return end(engine, Err(LinkError::Refused(refused.reason))).await;
                    }
                    None => {}
                }
                // Without the offset of the clocks no second would have its number.
                if engine.is_none() && probes >= PROBES {
                    engine = begin(&mut plan, options, &link, &outbox).await?;
                }
            }
            event = next(&mut engine) => {
                match event {
                    Some(event) => link.report(event, &outbox).await?,
                    None => engine = None,
                }
            }
            changed = stop.changed() => {
                if changed.is_err() || *stop.borrow() {
                    return end(engine, Ok(())).await;
                }
            }
        }
    }
}

/// Without an engine nothing happens, ever.
async fn next(engine: &mut Option<Engine>) -> Option<EngineEvent> {
    match engine {
        Some(engine) => engine.next().await,
        None => std::future::pending().await,
    }
}

/// The connection is over: what runs is drained and signed off, for a minute
/// at most. Load never runs unattended.
async fn end(engine: Option<Engine>, result: Result<(), LinkError>) -> Result<(), LinkError> {
    if let Some(mut engine) = engine {
        engine.stop(false);
        let drained =
            tokio::time::timeout(Duration::from_secs(60), async { while engine.next().await.is_some() {} });
        if drained.await.is_err() {
            engine.stop(true);
        }
    }
    result
}

/// Starts the engine when plan and users are complete.
async fn begin(
    plan: &mut Option<(v1::Plan, Vec<v1::UserPair>)>,
    options: &AgentOptions,
    link: &Link,
    outbox: &Outbox,
) -> Result<Option<Engine>, LinkError> {
    if let Some((plan, users)) = &*plan {
        let pairs: u64 = plan.users.iter().flat_map(|u| &u.pairs).map(|range| range.count).sum();
        if plan.user_chunks > 0 && (users.len() as u64) < pairs {
            return Ok(None); // more users follow
        }
    }
    let Some((plan, users)) = plan.take() else { return Ok(None) };
    match Engine::prepare(&plan, &users, options, link.offset_ns).await {
        Ok(engine) => Ok(Some(engine)),
        Err(error) => {
            let refusal = v1::NotReady {
                activity: "prepare".to_owned(),
                class: "configuration".to_owned(),
                code: error.code().to_owned(),
                error: error.to_string(),
                diagnosis: String::new(),
            };
            outbox.send(from_agent::Message::NotReady(refusal)).await?;
            outbox
                .send(from_agent::Message::Done(v1::Done {
                    intervals: 0,
                    interrupted: true,
                    reason: "not ready".into(),
                }))
                .await?;
            Ok(None)
        }
    }
}

struct Outbox(mpsc::Sender<v1::FromAgent>);

impl Outbox {
    async fn send(&self, message: from_agent::Message) -> Result<(), LinkError> {
        self.0.send(v1::FromAgent { message: Some(message) }).await.map_err(|_| lost("its stream is closed"))
    }
}

struct Link {
    /// The coordinator's wall clock minus our monotonic clock.
    offset_ns: i64,
    bound_ns: u64,
    unacked: VecDeque<v1::Interval>,
    dropped: u64,
}

impl Link {
    /// The narrowest round trip bounds the offset by its half.
    fn clock(&mut self, answer: v1::ClockAnswer) {
        let now = clock::now().0;
        let round_trip = now.saturating_sub(answer.agent_ns);
        if round_trip / 2 < self.bound_ns {
            self.bound_ns = round_trip / 2;
            self.offset_ns = answer.coordinator_unix_ns - (answer.agent_ns + round_trip / 2) as i64;
        }
    }

    fn acked(&mut self, number: u64) {
        while self.unacked.front().is_some_and(|interval| interval.number <= number) {
            self.unacked.pop_front();
        }
    }

    async fn report(&mut self, event: EngineEvent, outbox: &Outbox) -> Result<(), LinkError> {
        let message = match event {
            EngineEvent::Status(status) => from_agent::Message::PlanStatus(v1::PlanStatus {
                registered: status.registered,
                subscribed: status.subscribed,
                users: status.users,
                in_flight: status.in_flight,
            }),
            EngineEvent::Ready(ready) => from_agent::Message::Ready(ready),
            EngineEvent::NotReady(not_ready) => from_agent::Message::NotReady(not_ready),
            EngineEvent::Interval(interval) => {
                if self.unacked.len() == UNACKED {
                    self.unacked.pop_front();
                    self.dropped += 1;
                    tracing::error!(
                        dropped = self.dropped,
                        "the coordinator acknowledges nothing: an interval was lost"
                    );
                }
                self.unacked.push_back(interval.clone());
                from_agent::Message::Interval(interval)
            }
            EngineEvent::Done(done) => from_agent::Message::Done(done),
        };
        outbox.send(message).await
    }
}

fn probe() -> from_agent::Message {
    from_agent::Message::ClockProbe(v1::ClockProbe { agent_ns: clock::now().0 })
}

fn hello(identity: &Identity, options: &AgentOptions) -> v1::Hello {
    let host = crate::host::facts();
    v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        name: identity.name.clone(),
        site: identity.site.clone(),
        incarnation: identity.incarnation,
        shards: if options.shards > 0 { options.shards } else { host.cores },
        host: host.name,
        kernel: host.kernel,
        cpu_model: host.cpu_model,
        cores: host.cores,
    }
}
