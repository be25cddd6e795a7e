//! The program's own way to a node's API. Layer: program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// No request takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which node a command asks.
#[derive(Debug, Args)]
pub struct Target {
    /// A node's API.
    #[arg(long, default_value = "127.0.0.1:8081")]
    api: SocketAddr,
    /// The file with the API's token.
    #[arg(long, default_value = "dev/token")]
    token_file: PathBuf,
}

impl Target {
    /// The way to it.
    pub fn client(&self) -> anyhow::Result<ApiClient> {
        let token = std::fs::read_to_string(&self.token_file)
            .with_context(|| format!("cannot read the token in {}", self.token_file.display()))?;
        Ok(ApiClient::new(self.api, token.trim()))
    }
}

/// One node's API.
#[derive(Debug, Clone)]
pub struct ApiClient {
    address: SocketAddr,
    token: String,
}

impl ApiClient {
    /// Where, and the bearer token.
    pub fn new(address: SocketAddr, token: &str) -> Self {
        Self { address, token: token.to_owned() }
    }

    /// Asks; gives the body, `null` when it is empty or not JSON. A status of 400 and up is an error.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        tokio::time::timeout(TIMEOUT, self.send(method, path, body)).await.context("the API did not answer in time")?
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let stream = TcpStream::connect(self.address).await.with_context(|| format!("no API at {}", self.address))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.as_u16() >= 400 {
            bail!("{status}: {}", value["detail"].as_str().unwrap_or("no reason given"));
        }
        Ok(value)
    }
}
