//! `adsum agent`: this host makes load for a coordinator.

use adsum_agent::engine::AgentOptions;
use adsum_agent::link::{self, Identity, LinkError};
use adsum_coordinator::scenario::quantity;
use tokio::sync::watch;

use crate::cli::Agent;
use crate::exit;

pub fn agent(args: &Agent) -> u8 {
    match options(args).and_then(|options| serve(args, &options)) {
        Ok(()) => 0,
        Err((code, text)) => {
            eprintln!("adsum: {text}");
            code
        }
    }
}

fn options(args: &Agent) -> Result<AgentOptions, (u8, String)> {
    let allow: Result<Vec<_>, _> = args.allow.iter().map(|text| text.parse()).collect();
    let allow =
        allow.map_err(|e: adsum_agent::net::allow::NetworkError| (exit::USAGE, format!("--allow: {e}")))?;
    let max_rate_mhz = match &args.max_rate {
        None => 0,
        Some(text) => quantity::rate(text)
            .map_err(|e| (exit::USAGE, format!("--max-rate {text}: write a rate such as 600/s ({e:?})")))?,
    };
    Ok(AgentOptions { allow: Some(allow), max_rate_mhz, shards: args.shards, trace: None })
}

fn serve(args: &Agent, options: &AgentOptions) -> Result<(), (u8, String)> {
    let facts = adsum_agent::host::facts();
    let name = args.name.clone().unwrap_or_else(|| facts.name.to_lowercase());
    let incarnation = u64::from(std::process::id()) << 32
        ^ std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::from(d.subsec_nanos()));
    let identity = Identity { name, site: args.site.clone(), incarnation };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| (exit::INTERNAL, e.to_string()))?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut a), Ok(mut b)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = a.recv() => {}, _ = b.recv() => {} }
            // Nobody listens once the link has ended.
            let _ = stop.send(true);
        });
        let channel = connect(args).await.map_err(|e| (exit::NOT_STARTED, e.to_string()))?;
        link::serve(channel, &identity, options, stopped)
            .await
            .map_err(|e| (exit::NOT_STARTED, e.to_string()))
    })
}

async fn connect(args: &Agent) -> Result<tonic::transport::Channel, LinkError> {
    let Some(ca) = &args.ca else { return link::connect(&args.coordinator).await };
    let read = |path: Option<&std::path::PathBuf>| {
        let path = path.cloned().unwrap_or_default();
        std::fs::read(&path).map_err(|e| LinkError::Lost(format!("{}: {e}", path.display())))
    };
    let (ca, cert, key) = (read(Some(ca))?, read(args.cert.as_ref())?, read(args.key.as_ref())?);
    link::connect_tls(&args.coordinator, &ca, &cert, &key).await
}
