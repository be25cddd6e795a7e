//! `tandem status`: a cluster as one of its nodes sees it. Layer: program.

use std::process::ExitCode;

use clap::Args;

use super::http::Target;

/// The arguments.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    target: Target,
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
        let api = self.target.client()?;
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
