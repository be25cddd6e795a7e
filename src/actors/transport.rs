//! SIP's way out: by the socket of the flow's vnode, or through the node that holds it. Layer: shell.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::gateway::Parcel;
use super::services::Services;
use crate::clock;
use crate::ids::VnodeId;
use crate::sip::dialog::Flow;
use crate::sip::encode::encode;
use crate::sip::message::{Message, Response};

/// The sockets of the vnodes that are here.
#[derive(Debug, Default)]
pub struct Sockets {
    udp: RwLock<HashMap<VnodeId, Open>>,
}

#[derive(Debug)]
struct Open {
    socket: Arc<UdpSocket>,
    /// None while its vnode's actors are still being made.
    reader: Option<JoinHandle<()>>,
}

impl Sockets {
    /// A vnode's socket is bound: what its actors say leaves, what comes in waits.
    pub fn bound(&self, vnode: VnodeId, socket: UdpSocket) {
        let open = Open { socket: Arc::new(socket), reader: None };
        self.udp.write().unwrap_or_else(PoisonError::into_inner).insert(vnode, open);
    }

    /// From now on a task reads a vnode's socket.
    pub fn read(&self, vnode: VnodeId, read: impl FnOnce(Arc<UdpSocket>) -> JoinHandle<()>) {
        if let Some(open) = self.udp.write().unwrap_or_else(PoisonError::into_inner).get_mut(&vnode) {
            open.reader = Some(read(open.socket.clone()));
        }
    }

    /// Closes a vnode's socket; when this returns nothing is read from it any more.
    pub async fn close(&self, vnode: VnodeId) {
        let open = self.udp.write().unwrap_or_else(PoisonError::into_inner).remove(&vnode);
        if let Some(Open { socket, reader }) = open {
            drop(socket);
            if let Some(reader) = reader {
                reader.abort();
                let _ = reader.await;
            }
        }
    }

    /// Whether a vnode's socket is open here and read.
    pub fn is_read(&self, vnode: VnodeId) -> bool {
        self.udp.read().unwrap_or_else(PoisonError::into_inner).get(&vnode).is_some_and(|open| open.reader.is_some())
    }

    fn udp(&self, vnode: VnodeId) -> Option<Arc<UdpSocket>> {
        self.udp.read().unwrap_or_else(PoisonError::into_inner).get(&vnode).map(|open| open.socket.clone())
    }
}

/// Sends a message by a flow.
pub fn send(services: &Services, flow: Flow, message: &Message) {
    send_bytes(services, flow, encode(message), true);
}

/// Sends a response by a flow, to where its Via wants it (RFC 3261 §18.2.2).
pub fn respond(services: &Services, flow: Flow, response: Response) {
    let address = response.headers.top_via().ok().and_then(|via| via.response_address(5060));
    let flow = Flow { remote: address.unwrap_or(flow.remote), ..flow };
    send(services, flow, &Message::Response(response));
}

/// Sends bytes by a flow; `onward` lets another node do it. What can't be sent now is lost, as on any network.
pub fn send_bytes(services: &Services, flow: Flow, bytes: Bytes, onward: bool) {
    let sent = match services.sockets.udp(flow.vnode) {
        Some(socket) => may_send(services, flow.vnode) && socket.try_send_to(&bytes, flow.remote).is_ok(),
        None if onward => match services.cluster.owner_of(flow.vnode).filter(|owner| *owner != services.node) {
            Some(owner) => services.gateways.send(services, owner, &Parcel::Send { flow: flow.into(), bytes }),
            None => false,
        },
        None => false,
    };
    if !sent {
        metrics::counter!("tandem_sip_unsent_total").increment(1);
    }
}

fn may_send(services: &Services, vnode: VnodeId) -> bool {
    services.cluster.fence(vnode).is_some_and(|fence| fence.may_send(clock::uptime()))
}
