//! SIP over WebSocket (RFC 7118): one message a frame, the subprotocol `sip`. Layer: shell.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::connection::{Ended, Patience, WHOLE, route, written};
use super::services::Services;
use crate::fence::Fence;
use crate::sip::dialog::Flow;
use crate::sip::parse::MAX_MESSAGE;

/// The subprotocol (RFC 7118 §4.1).
const SIP: &str = "sip";
/// Read at once; a silent connection holds so much.
const READ: usize = 4096;

/// Shakes hands, then reads and writes until it ends.
pub(super) async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    services: &Arc<Services>,
    flow: Flow,
    stream: S,
    out: mpsc::Receiver<Bytes>,
) -> Ended {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    match timeout(WHOLE, accept_hdr_async_with_config(stream, speaks_sip, Some(config))).await {
        Ok(Ok(socket)) => talk(services, flow, socket, out).await,
        Ok(Err(error)) => {
            tracing::debug!(vnode = %flow.vnode, %error, "no WebSocket");
            Ended::NoSip
        }
        Err(_) => Ended::TooSlow,
    }
}

/// RFC 7118 §4.2: a client that doesn't ask for the subprotocol is none of ours.
#[allow(clippy::result_large_err, reason = "the library's type")]
fn speaks_sip(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    if offered.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(SIP)) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SIP));
        return Ok(response);
    }
    let mut refused = ErrorResponse::new(Some("the WebSocket subprotocol here is \"sip\"".to_owned()));
    *refused.status_mut() = StatusCode::BAD_REQUEST;
    Err(refused)
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    services: &Arc<Services>,
    flow: Flow,
    mut socket: WebSocketStream<S>,
    mut out: mpsc::Receiver<Bytes>,
) -> Ended {
    let fence = services.fence(flow.vnode);
    let mut first_by = Some(Instant::now() + WHOLE);
    let mut patience = Patience::new(services);
    loop {
        tokio::select! {
            message = socket.next() => {
                let bytes = match message {
                    Some(Ok(Message::Text(text))) => Bytes::from(text),
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    // The library answers pings. They are no messages: who only pings says nothing.
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Ended::ByPeer,
                };
                first_by = None;
                patience.heard(services);
                if &bytes[..] == b"\r\n\r\n" {
                    // RFC 7118 §6, RFC 5626 §4.4.1.
                    if let Err(ended) = write(&mut socket, &fence, Bytes::from_static(b"\r\n")).await {
                        return ended;
                    }
                } else {
                    route(services, flow, &bytes);
                }
            }
            bytes = out.recv() => {
                let Some(bytes) = bytes else { return Ended::ByPeer };
                if let Err(ended) = write(&mut socket, &fence, bytes).await {
                    return ended;
                }
            }
            () = sleep_until(first_by.unwrap_or(patience.until())) => {
                if first_by.is_some() {
                    return Ended::TooSlow;
                }
                if let Some(ended) = patience.ended(services, flow) {
                    return ended;
                }
            }
        }
    }
}

/// Browsers want text; what isn't any goes as it is.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    fence: &Fence,
    bytes: Bytes,
) -> Result<(), Ended> {
    let message = match bytes.clone().try_into() {
        Ok(text) => Message::Text(text),
        Err(_) => Message::Binary(bytes),
    };
    written(fence, socket.send(message)).await
}
