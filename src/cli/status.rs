//! `tandem status`: a cluster as one of its nodes sees it. Layer: program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::http::ApiClient;

/// The arguments.
#[derive(Debug, Args)]
pub struct Status {
    /// A node's API.
    #[arg(long, default_value = "127.0.0.1:8081")]
    api: SocketAddr,
    /// The file with the API's token.
    #[arg(long, default_value = "dev/token")]
    token_file: PathBuf,
}

impl Status {
    /// Prints it.
    pub async fn run(self) -> ExitCode {
        match self.show().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tandem: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    async fn show(&self) -> anyhow::Result<()> {
        let token = std::fs::read_to_string(&self.token_file)
            .with_context(|| format!("cannot read the token in {}", self.token_file.display()))?;
        let api = ApiClient::new(self.api, token.trim());
        let cluster = api.get("/v1/cluster").await?;
        let calls = api.get("/v1/calls?limit=0").await?;
        let registrations = api.get("/v1/registrations?limit=0").await?;
        println!("node   state");
        for node in cluster["nodes"].as_array().into_iter().flatten() {
            println!("{:<6} {}", node["id"].to_string(), node["state"].as_str().unwrap_or("?"));
        }
        println!("\nvnode  address               owner  home");
        for vnode in cluster["vnodes"].as_array().into_iter().flatten() {
            let number = |key: &str| vnode[key].as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
            let address = vnode["address"].as_str().unwrap_or("?");
            println!("{:<6} {:<21} {:<6} {}", number("id"), address, number("owner"), number("home"));
        }
        println!("\n{} calls, {} registrations", calls["total"], registrations["total"]);
        Ok(())
    }
}
