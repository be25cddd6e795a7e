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
            let leaving = if node["leaving"] == true { ", leaving" } else { "" };
            println!("{:<6} {}{leaving}", node["id"].to_string(), node["state"].as_str().unwrap_or("?"));
        }
        println!("\nvnode  address               owner  home   held by");
        for vnode in cluster["vnodes"].as_array().into_iter().flatten() {
            let number = |key: &str| vnode[key].as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
            let address = vnode["address"].as_str().unwrap_or("?");
            let held: Vec<String> = vnode["held_by"].as_array().into_iter().flatten().map(ToString::to_string).collect();
            let (owner, home, held) = (number("owner"), number("home"), held.join(" "));
            println!("{:<6} {address:<21} {owner:<6} {home:<6} {held}", number("id"));
            if let Some(other) = vnode["other_address"].as_str() {
                println!("{:<6} {other}", "");
            }
        }
        println!("\n{} calls, {} registrations", calls["total"], registrations["total"]);
        Ok(())
    }
}
