//! The fleet: agents that attached, and what they say.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adsum_proto::v1::{self, from_agent, to_agent};
use adsum_proto::{MAX_MESSAGE, PROTOCOL_VERSION};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Messages to one agent that may wait: a plan with its chunks, then little.
const TO_AGENT: usize = 256;
/// Messages from all agents that may wait for the run; agents wait beyond it.
const INBOX: usize = 1_024;
/// An agent that says nothing for so long is lost: it reports every second.
const SILENCE: Duration = Duration::from_secs(20);

/// What happens in the fleet.
#[derive(Debug)]
pub enum FleetEvent {
    /// An agent attached.
    Attached(v1::Hello),
    /// An agent said something.
    Said(String, from_agent::Message),
    /// An agent went away.
    Lost(String, String),
}

#[derive(Debug)]
struct Attached {
    hello: v1::Hello,
    outbox: mpsc::Sender<Result<v1::ToAgent, Status>>,
    from: String,
}

/// The agents of a coordinator.
#[derive(Debug, Clone)]
pub struct Fleet {
    agents: Arc<Mutex<BTreeMap<String, Attached>>>,
    inbox: mpsc::Sender<FleetEvent>,
}

impl Fleet {
    /// An empty fleet, and what happens in it.
    #[must_use]
    pub fn new() -> (Fleet, mpsc::Receiver<FleetEvent>) {
        let (inbox, events) = mpsc::channel(INBOX);
        (Fleet { agents: Arc::default(), inbox }, events)
    }

    fn agents(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Attached>> {
        // A panic elsewhere leaves the map whole: every change of it is one call.
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is there, by name.
    #[must_use]
    pub fn hellos(&self) -> Vec<v1::Hello> {
        self.agents().values().map(|agent| agent.hello.clone()).collect()
    }

    /// Tells an agent something; waits while its queue is full.
    pub async fn tell(&self, agent: &str, message: to_agent::Message) {
        let outbox = self.agents().get(agent).map(|agent| agent.outbox.clone());
        if let Some(outbox) = outbox {
            // An agent that went away is reported as lost by its stream.
            drop(outbox.send(Ok(v1::ToAgent { message: Some(message) })).await);
        }
    }

    /// The gRPC service that agents talk to.
    #[must_use]
    pub fn service(&self) -> v1::fleet_server::FleetServer<Fleet> {
        v1::fleet_server::FleetServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    async fn listen(self, name: String, mut stream: Streaming<v1::FromAgent>) {
        let reason = loop {
            let message = match tokio::time::timeout(SILENCE, stream.message()).await {
                Err(_) => break format!("it said nothing for {} s", SILENCE.as_secs()),
                Ok(Ok(Some(message))) => message.message,
                Ok(Ok(None)) => break "it closed its stream".to_owned(),
                Ok(Err(status)) => break format!("its stream broke: {}", status.message()),
            };
            match message {
                Some(from_agent::Message::ClockProbe(probe)) => {
                    let now = std::time::SystemTime::now()
                        .duration_since(std::time::UNIX_EPOCH)
                        .unwrap_or_default();
                    let answer = v1::ClockAnswer {
                        agent_ns: probe.agent_ns,
                        coordinator_unix_ns: now.as_nanos() as i64,
                    };
                    self.tell(&name, to_agent::Message::ClockAnswer(answer)).await;
                }
                Some(message) => {
                    let said = FleetEvent::Said(name.clone(), message);
                    let sent = self.inbox.send(said).await;
                    if sent.is_err() {
                        break "the coordinator ended".to_owned();
                    }
                }
                None => {}
            }
        };
        self.agents().remove(&name);
        drop(self.inbox.send(FleetEvent::Lost(name, reason)).await);
    }
}

/// Serves the one agent that lives in this process.
///
/// # Errors
/// Those of the transport.
pub async fn serve_memory(
    fleet: &Fleet,
    stream: tokio::io::DuplexStream,
) -> Result<(), tonic::transport::Error> {
    use tokio_stream::StreamExt as _;
    // One connection, and then none: the server must not end because of it.
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(stream)).chain(tokio_stream::pending());
    tonic::transport::Server::builder().add_service(fleet.service()).serve_with_incoming(incoming).await
}

/// Serves agents on a Unix socket.
///
/// # Errors
/// Those of the transport.
pub async fn serve_unix(
    fleet: &Fleet,
    listener: tokio::net::UnixListener,
) -> Result<(), tonic::transport::Error> {
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    tonic::transport::Server::builder().add_service(fleet.service()).serve_with_incoming(incoming).await
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for Fleet {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::ToAgent, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        crate::certs::require(&request, crate::certs::Role::Agent)?;
        let from = request.remote_addr().map_or_else(|| "this host".to_owned(), |a| a.to_string());
        let mut stream = request.into_inner();
        let first = tokio::time::timeout(SILENCE, stream.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let Some(from_agent::Message::Hello(hello)) = first.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("the first message of a stream has to be Hello"));
        };
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "agent {} ({}) speaks protocol version {}, this coordinator ({}) {PROTOCOL_VERSION}: use the same release",
                hello.name,
                hello.software_version,
                hello.protocol_version,
                env!("CARGO_PKG_VERSION"),
            )));
        }
        if !crate::scenario::names::is_name(&hello.name, crate::scenario::MAX_NAME)
            || !crate::scenario::names::is_name(&hello.site, crate::scenario::MAX_NAME)
        {
            return Err(Status::invalid_argument(format!(
                "agent `{}` at site `{}`: names are [a-z0-9][a-z0-9_.-]*, at most {} characters",
                hello.name,
                hello.site,
                crate::scenario::MAX_NAME
            )));
        }
        let (outbox, stream_out) = mpsc::channel(TO_AGENT);
        {
            let mut agents = self.agents();
            if let Some(there) = agents.get(&hello.name) {
                return Err(Status::already_exists(format!(
                    "an agent named {} is attached from {} already: give this one another --name",
                    hello.name, there.from
                )));
            }
            agents
                .insert(hello.name.clone(), Attached { hello: hello.clone(), outbox: outbox.clone(), from });
        }
        let welcome = v1::Welcome {
            protocol_version: PROTOCOL_VERSION,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let welcome = v1::ToAgent { message: Some(to_agent::Message::Welcome(welcome)) };
        drop(outbox.send(Ok(welcome)).await);
        let name = hello.name.clone();
        if self.inbox.send(FleetEvent::Attached(hello)).await.is_err() {
            return Err(Status::unavailable("the coordinator is ending"));
        }
        tokio::spawn(self.clone().listen(name, stream));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream_out))))
    }
}
