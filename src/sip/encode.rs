//! The serialiser: a message to bytes, with the Content-Length that is true (RFC 3261 §7). Layer: pure.

use bytes::{BufMut, Bytes, BytesMut};

use super::message::{Headers, Message, Request, Response};

/// Writes either kind.
pub fn encode(message: &Message) -> Bytes {
    match message {
        Message::Request(request) => encode_request(request),
        Message::Response(response) => encode_response(response),
    }
}

/// Writes a request.
pub fn encode_request(request: &Request) -> Bytes {
    let mut out = BytesMut::with_capacity(128 + size_of(&request.headers) + request.uri.len() + request.body.len());
    out.put_slice(request.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(request.uri.as_bytes());
    out.put_slice(b" SIP/2.0\r\n");
    finish(out, &request.headers, &request.body)
}

/// Writes a response.
pub fn encode_response(response: &Response) -> Bytes {
    let mut out = BytesMut::with_capacity(128 + size_of(&response.headers) + response.body.len());
    out.put_slice(b"SIP/2.0 ");
    put_number(&mut out, usize::from(response.status.code()));
    out.put_u8(b' ');
    out.put_slice(response.reason.as_bytes());
    out.put_slice(b"\r\n");
    finish(out, &response.headers, &response.body)
}

fn size_of(headers: &Headers) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

fn finish(mut out: BytesMut, headers: &Headers, body: &Bytes) -> Bytes {
    for (name, value) in headers.iter() {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value);
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"Content-Length: ");
    put_number(&mut out, body.len());
    out.put_slice(b"\r\n\r\n");
    out.put_slice(body);
    out.freeze()
}

fn put_number(out: &mut BytesMut, mut number: usize) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}
