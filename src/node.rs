//! One node: built from its configuration, and stopped so that nothing is lost. Layer: program.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use ractor::{Actor, ActorRef};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::actors::certificates::{Certificate, CertificateError};
use crate::actors::gateway::LinkSettings;
use crate::actors::node::{NodeActor, NodeMsg, Start};
use crate::actors::services::{Services, Tls};
use crate::actors::{recording, repeat};
use crate::api::{self, Api};
use crate::cluster::address::Mover;
use crate::cluster::state::Member;
use crate::cluster::storage::Place;
use crate::cluster::tls::{NodeTls, TlsError, TlsFiles};
use crate::cluster::{Cluster, Settings, StartError};
use crate::config::{self, AddressMode, Config};
use crate::media::core::sound::Quality;
use crate::media::recorder::{self, Recorder, Shelf, ShelfError};
use crate::media::relay::Relay;
use crate::media::sounds::{SoundError, Sounds};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate that phones see.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The cluster engine.
    #[error(transparent)]
    Cluster(#[from] StartError),
    /// The media threads.
    #[error("the media threads did not start")]
    Media(#[source] std::io::Error),
    /// Where recordings are kept.
    #[error("recording.store")]
    Recordings(#[from] ShelfError),
    /// What is to be played.
    #[error(transparent)]
    Sound(#[from] SoundError),
    /// The supervision tree.
    #[error("the actors did not start")]
    Actors(#[source] Box<ractor::SpawnErr>),
    /// This program, which a node starts again to hold its addresses.
    #[error("cannot find this program's file")]
    Program(#[source] std::io::Error),
    /// The API's token.
    #[error("cannot read or make {}", path.display())]
    Token {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The API's port.
    #[error("cannot listen on {address} for the API")]
    Api {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A running node.
pub struct Node {
    /// What its actors share.
    pub services: Arc<Services>,
    root: ActorRef<NodeMsg>,
    tree: JoinHandle<()>,
    api: JoinHandle<()>,
    recorder: Option<Recorder>,
    /// What goes on beside the actors: looking for a new certificate, repeating what phones asked once.
    beside: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts everything; it is *ready* some time later ([`Cluster::is_ready`]).
    pub async fn start(config: Config, storage: Place, metrics: PrometheusHandle) -> Result<Self, NodeError> {
        let files =
            TlsFiles { ca: config.cluster.ca.clone(), cert: config.cluster.cert.clone(), key: config.cluster.key.clone() };
        let tls = NodeTls::load(&files)?;
        let token = api::token(&config.api.token_file)
            .map_err(|source| NodeError::Token { path: config.api.token_file.clone(), source })?;
        let phones = match &config.sip.tls {
            Some(files) => {
                let certificate = Certificate::load(files)?;
                let (acceptor, connector) = (certificate.acceptor(files)?, certificate.connector(files)?);
                Some((Tls { acceptor, connector }, certificate))
            }
            None => None,
        };
        let shelf = Shelf::open(&config.recording, &config.cluster.secret)?;
        let address = config.api.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| NodeError::Api { address, source })?;
        let cluster = Cluster::start(Settings {
            node: config.node.id,
            members: config.cluster.member.iter().map(|member| (member.id, member_of(member))).collect(),
            replicas: config.cluster.replicas.into(),
            vnodes: config.cluster.vnode.iter().map(|vnode| (vnode.id, vnode.home)).collect(),
            addresses: config.cluster.vnode.iter().filter_map(|vnode| Some((vnode.id, vnode.address?))).collect(),
            mover: mover(&config.address).map_err(NodeError::Program)?,
            dir: config.node.data.clone(),
            storage,
            tls: tls.clone(),
            secret: config.cluster.secret.0.clone().into_bytes(),
        })
        .await?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = if config.media.workers == 0 { cores } else { config.media.workers.into() };
        let timeout = Some(Duration::from_secs(config.media.timeout.into())).filter(|timeout| !timeout.is_zero());
        let quality = Quality { complexity: config.media.opus_complexity, bitrate: config.media.opus_bitrate };
        let sounds = Sounds::load(config.media.hold_music.as_deref(), config.media.ringback.as_deref(), quality)?;
        let (relay, events) = Relay::start(workers, timeout, config.media.dscp, quality, sounds).map_err(NodeError::Media)?;
        let own = config.cluster.member.iter().find(|member| member.id == config.node.id);
        let own = own.ok_or(StartError::NotAMember(config.node.id))?;
        let links = LinkSettings { listen: own.actors, tls };
        let services =
            Arc::new(Services::new(Arc::new(config), cluster, relay, shelf, phones.as_ref().map(|(tls, _)| tls.clone())));
        let start = Start { services: services.clone(), events, links };
        let (root, tree) = Actor::spawn(None, NodeActor, start).await.map_err(|error| NodeError::Actors(Box::new(error)))?;
        let recorder = record(&services);
        let router = Api::new(services.clone(), &token, metrics).router();
        let api = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the API has ended");
            }
        });
        let mut beside = vec![tokio::spawn(repeat::run(services.clone()))];
        beside.extend(phones.map(|(_, certificate)| tokio::spawn(certificate.follow())));
        Ok(Self { services, root, tree, api, recorder, beside })
    }

    /// Waits for what must not happen: the end of the supervision tree, or of a Raft group.
    pub async fn broken(&mut self) {
        tokio::select! {
            _ = &mut self.tree => tracing::error!("the supervision tree has ended"),
            () = self.services.cluster.broken() => tracing::error!("a Raft group has ended"),
        }
    }

    /// Hands the vnodes over, then ends the actors and closes the storage.
    pub async fn stop(self) {
        self.services.cluster.stop().await;
        self.api.abort();
        if let Some(recorder) = self.recorder {
            recorder.stop().await;
        }
        for task in &self.beside {
            task.abort();
        }
        let _ = self.root.stop_and_wait(None, Some(Duration::from_secs(1))).await;
    }
}

/// If there is somewhere to keep what is said.
fn record(services: &Arc<Services>) -> Option<Recorder> {
    let (shelf, taped) = (services.shelf.clone()?, services.relay.taped()?);
    let config = &services.config;
    let settings = recorder::Settings {
        node: services.node,
        format: config.recording.format,
        keep_days: config.recording.keep_days,
        scratch: config.node.data.join("recordings"),
    };
    Some(Recorder::start(shelf, Arc::new(recording::Records(services.clone())), taped, settings))
}

fn mover(address: &config::Address) -> std::io::Result<Mover> {
    Ok(match address.mode {
        AddressMode::Loopback | AddressMode::Fixed => Mover::Binding,
        AddressMode::Netlink => {
            Mover::Guard { program: std::env::current_exe()?, interface: address.interface.clone().unwrap_or_default() }
        }
        AddressMode::Hook => Mover::Hook(address.command.clone()),
    })
}

fn member_of(member: &config::Member) -> Member {
    Member { raft: member.raft, actors: member.actors, leaving: false }
}

#[cfg(test)]
mod flows;
#[cfg(test)]
mod quality;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transfers;
