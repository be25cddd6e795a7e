//! What the actors of one node share. Layer: shell.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ractor::ActorRef;
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::calls::CallsMsg;
use super::certificates;
use super::directory::Directory;
use super::elsewhere::Elsewhere;
use super::figures::Told;
use super::gateway::Gateways;
use super::notifiers::NotifiersMsg;
use super::pager::PagerMsg;
use super::records::Site;
use super::registrar::RegistrarMsg;
use super::repeat::Repeats;
use super::standby::Standby;
use super::transport::Sockets;
use crate::clock;
use crate::cluster::{Cluster, Ownership};
use crate::config::{AddressMode, Config, Digest, SipPeer, SrtpPolicy};
use crate::fence::Fence;
use crate::ids::{Aor, NodeId, VnodeId};
use crate::media::ports::PortPool;
use crate::media::recorder::Shelf;
use crate::media::relay::Relay;
use crate::sip::b2bua::SessionPolicy;
use crate::sip::digest::{Accepted, Algorithm, Nonces};
use crate::sip::gruu::Gruus;
use crate::sip::guard::{Guard, Net, Outcome};
use crate::sip::headers::Transport;
use crate::sip::registrar::Phone;
use crate::sip::transaction::Timers;

/// See [`Services::second_looks`].
const SECOND_LOOKS: usize = 256;

/// The services.
pub struct Services {
    /// This node.
    pub node: NodeId,
    /// Its configuration.
    pub config: Arc<Config>,
    /// The replicated records.
    pub cluster: Arc<Cluster>,
    /// The media threads.
    pub relay: Relay,
    /// Where recordings are kept, if they are.
    pub shelf: Option<Shelf>,
    /// The media of other nodes' calls; none where binding an address is taking it.
    pub standby: Option<Standby>,
    /// Who is where.
    pub directory: Directory,
    /// What other nodes have measured of their calls.
    pub told: Told,
    /// SIP's sockets here.
    pub sockets: Sockets,
    /// The handshakes of TLS, if phones may use it.
    pub tls: Option<Tls>,
    /// Other domains.
    pub elsewhere: Elsewhere,
    /// The other nodes' gateways.
    pub gateways: Gateways,
    /// Digest's nonces.
    pub nonces: Nonces,
    /// The answers to them that were accepted lately.
    pub accepted: Mutex<Accepted>,
    /// Names for single phones.
    pub gruus: Gruus,
    /// The hashes that passwords are asked with.
    pub algorithms: Vec<Algorithm>,
    /// SIP's timers.
    pub timers: Timers,
    /// How long sessions last without a refresh; none for ever.
    pub session: Option<SessionPolicy>,
    /// Who is listened to.
    guard: Option<Mutex<Guard>>,
    /// What phones asked by connections and nobody has answered yet.
    pub repeats: Repeats,
    /// Who calls without credentials, by where its packets come from.
    peers: Vec<(Net, Peer)>,
    /// The same by a name in the certificate that it shows.
    certified: Vec<(String, Arc<Peer>)>,
    /// How many requests may wait at once for a second look at who their user is.
    pub second_looks: Arc<Semaphore>,
    /// The vnodes whose actors run here.
    open: RwLock<HashMap<VnodeId, OpenVnode>>,
}

fn algorithm(digest: Digest) -> Algorithm {
    match digest {
        Digest::Md5 => Algorithm::Md5,
        Digest::Sha256 => Algorithm::Sha256,
    }
}

/// The handshakes of TLS.
#[derive(Clone)]
pub struct Tls {
    /// Those of who comes to us.
    pub acceptor: TlsAcceptor,
    /// Those of who we go to.
    pub connector: TlsConnector,
}

/// A server that is known by its address, or its certificate.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The user that its calls are of.
    pub user: Aor,
    /// It registers anybody.
    pub registers: bool,
}

/// A vnode whose actors run here.
#[derive(Clone)]
pub struct OpenVnode {
    /// Its calls.
    pub calls: ActorRef<CallsMsg>,
    /// Its registrar.
    pub registrar: ActorRef<RegistrarMsg>,
    /// Its MESSAGEs outside of calls.
    pub pager: ActorRef<PagerMsg>,
    /// Who watches its users.
    pub notifiers: ActorRef<NotifiersMsg>,
    /// Its media ports.
    pub ports: Arc<PortPool>,
}

impl Services {
    /// Puts them together.
    pub fn new(config: Arc<Config>, cluster: Arc<Cluster>, relay: Relay, shelf: Option<Shelf>, tls: Option<Tls>) -> Self {
        let standby = (config.address.mode != AddressMode::Loopback).then(Standby::default);
        let session = SessionPolicy { expires: config.sip.session_expires, min: config.sip.min_se };
        let session = Some(session).filter(|session| session.expires > 0);
        let trusted = config.guard.trusted.iter().filter_map(|text| text.parse().ok()).collect();
        let config_guard = config.guard.enabled.then(|| Mutex::new(Guard::new(trusted)));
        let peer = |peer: &SipPeer| Peer { user: Aor::new(&peer.user, &config.sip.domain), registers: peer.registers };
        let all = || config.sip.peer.iter();
        let peers = all().filter_map(|own| Some((own.net.as_ref()?.parse().ok()?, peer(own)))).collect();
        let certified = all().filter_map(|own| Some((own.certificate.clone()?, Arc::new(peer(own))))).collect();
        let elsewhere = Elsewhere::new(&config);
        let timers = Timers { t1: Duration::from_millis(config.sip.t1.into()), ..Timers::RFC };
        Self {
            node: config.node.id,
            nonces: Nonces::new(config.cluster.secret.0.as_bytes()),
            accepted: Mutex::default(),
            gruus: Gruus::new(config.cluster.secret.0.as_bytes()),
            algorithms: config.sip.digest.iter().map(|digest| algorithm(*digest)).collect(),
            config,
            cluster,
            relay,
            shelf,
            standby,
            directory: Directory::default(),
            told: Told::default(),
            sockets: Sockets::default(),
            tls,
            elsewhere,
            gateways: Gateways,
            timers,
            guard: config_guard,
            session,
            repeats: Repeats::default(),
            peers,
            certified,
            second_looks: Arc::new(Semaphore::new(SECOND_LOOKS)),
            open: RwLock::default(),
        }
    }

    /// Whether to read what comes from there.
    pub fn hears(&self, by: Transport, from: SocketAddr) -> bool {
        self.guard().is_none_or(|mut guard| guard.hears(by, from, clock::uptime()))
    }

    /// Whether nobody there has proved to be a user, and somebody cares.
    pub fn is_stranger(&self, from: SocketAddr) -> bool {
        self.guard().is_some_and(|mut guard| guard.is_stranger(from))
    }

    /// Whether whatever comes from there is good.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.guard().is_none_or(|guard| guard.trusts(ip))
    }

    /// Who sends from there and needs no credentials.
    pub fn peer_at(&self, ip: IpAddr) -> Option<&Peer> {
        self.peers.iter().find(|(net, _)| net.holds(ip)).map(|(_, peer)| peer)
    }

    /// Who has shown this certificate, if it needs no credentials.
    pub fn peer_with(&self, certificate: &CertificateDer<'_>) -> Option<Arc<Peer>> {
        self.certified.iter().find(|(name, _)| certificates::is_for(certificate, name)).map(|(_, peer)| peer.clone())
    }

    /// Whether somebody who needs no credentials calls as this user.
    pub fn is_a_peers(&self, user: &Aor) -> bool {
        let certified = self.certified.iter().map(|(_, peer)| &**peer);
        self.peers.iter().map(|(_, peer)| peer).chain(certified).any(|peer| peer.user == *user)
    }

    fn guard(&self) -> Option<MutexGuard<'_, Guard>> {
        self.guard.as_ref().map(|guard| guard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What came from there led to this.
    pub fn learn(&self, by: Transport, from: SocketAddr, outcome: Outcome) {
        let ban = self.guard().and_then(|mut guard| guard.learn(by, from, outcome, clock::uptime()));
        if let Some(time) = ban {
            metrics::counter!("tandem_bans_total").increment(1);
            tracing::warn!(source = %from.ip(), seconds = time.as_secs(), "a source is not heard any more");
        }
    }

    /// A vnode's actors are there.
    pub fn opened(&self, vnode: VnodeId, actors: OpenVnode) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(vnode, actors);
    }

    /// A vnode's actors are going.
    pub fn closed(&self, vnode: VnodeId) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&vnode);
    }

    /// The actors of a vnode, if they run here.
    pub fn vnode(&self, vnode: VnodeId) -> Option<OpenVnode> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&vnode).cloned()
    }

    /// Where a vnode is while it is on this node.
    pub fn site_of(&self, vnode: VnodeId) -> Option<Site> {
        let port = self.config.port_of(vnode, self.config.sip.port);
        Some(Site { ips: self.config.addresses_of(vnode)?, port, moves: self.config.is_fixed() })
    }

    /// The user that a phone is of.
    pub fn user_of(&self, phone: Option<&Phone>) -> Option<Aor> {
        // Another domain is treated as the user that it calls as.
        let peer = phone.filter(|phone| phone.is_elsewhere()).and_then(|phone| {
            let domain = |peer: &&SipPeer| peer.domain.as_deref().is_some_and(|domain| domain == phone.aor.domain());
            Some(Aor::new(&self.config.sip.peer.iter().find(domain)?.user, &self.config.sip.domain))
        });
        peer.or_else(|| phone.map(|phone| phone.aor.clone()))
    }

    /// Whether a phone's streams are to be protected: as its user's record says, or the configuration.
    pub fn srtp_policy_of(&self, phone: Option<&Phone>) -> SrtpPolicy {
        let own = self.user_of(phone).and_then(|aor| self.cluster.read_meta(|meta| meta.user(&aor)?.srtp));
        own.unwrap_or(self.config.media.srtp)
    }

    /// What this node is to a vnode at the moment.
    pub fn ownership(&self, vnode: VnodeId) -> Ownership {
        self.cluster.ownership(vnode).map_or(Ownership::None, |ownership| *ownership.borrow())
    }

    /// What whoever sends for a vnode has to ask; one that is no vnode's lets nothing pass.
    pub fn fence(&self, vnode: VnodeId) -> Fence {
        self.cluster.fence(vnode).unwrap_or_default()
    }

    /// Whether promises can be made for a vnode here.
    pub fn owns(&self, vnode: VnodeId) -> bool {
        matches!(self.ownership(vnode), Ownership::Owner { .. })
    }

    /// Media ports in use here, RTP and RTCP counted apart.
    pub fn ports_in_use(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).values().map(|vnode| vnode.ports.used() * 2).sum()
    }
}
