//! Servers that call without credentials, known by where they are: sipp, with the scenarios that it brings along.

use std::time::Duration;

use tandem::config::SipPeer;
use tandem::sip::message::Message;
use tandem::sip::{StatusCode, parse};
use tokio::net::UdpSocket;

use crate::lab::address;
use crate::lab::cluster::{Cluster, DOMAIN};
use crate::lab::load::settled;
use crate::lab::net;
use crate::lab::sipp::{Load, Sipp};

const PEER: &str = "carrier";
/// The domains that `branchc` speaks of.
const ALIASES: [&str; 2] = ["CA.cym.com", "nnl.cym"];

/// A peer registers somebody who is called at `contact`.
async fn register(cluster: &Cluster, user: &str, contact: &str) {
    let socket = UdpSocket::bind((address(100), 0)).await.unwrap();
    let text = format!(
        "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK{user}\r\nFrom: <sip:{user}@{DOMAIN}>;tag=1\r\n\
         To: <sip:{user}@{DOMAIN}>\r\nCall-ID: {user}\r\nCSeq: 1 REGISTER\r\nContact: <sip:{user}@{contact}>\r\n\
         Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        socket.local_addr().unwrap()
    );
    socket.send_to(text.as_bytes(), cluster.sip_of(1)).await.unwrap();
    let mut buffer = [0; 4000];
    let (length, _) = tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    let Ok(Message::Response(response)) = parse::datagram(&bytes::Bytes::copy_from_slice(&buffer[..length])) else { panic!() };
    assert_eq!(response.status, StatusCode::OK, "{response:?}");
}

/// `branchs` answers a REGISTER and an INVITE of one Call-ID, which no call that comes through a back-to-back user agent has; `uas`
/// stands in for it.
#[test]
fn sipps_own_scenarios_run() {
    net::run(3, async |net| {
        let users = ["service", "ua1", "ua2", PEER].map(|name| (name.to_owned(), name.to_owned()));
        let cluster = Cluster::at_with(&net, users.to_vec(), |config| {
            config.sip.aliases = ALIASES.map(str::to_owned).to_vec();
            config.sip.peer = vec![SipPeer { registers: true, ..SipPeer::at(&address(100).to_string(), PEER) }];
        })
        .await;
        let callee = Sipp::bundled_waiting();
        for user in ["service", "ua2"] {
            register(&cluster, user, &callee.contact()).await;
        }
        let mut calls = 0;
        for (scenario, load) in [
            ("uac", Load { calls: 50, per_second: 25, talk: 500 }),
            ("regexp", Load { calls: 25, per_second: 25, talk: 500 }),
            // Its 25th call is another.
            ("branchc", Load { calls: 30, per_second: 30, talk: 500 }),
        ] {
            let counts = Sipp::bundled(cluster.sip_of(2), scenario, "service", &load).done().await;
            assert_eq!((counts.succeeded, counts.failed), (load.calls as u64, 0), "{scenario}: {counts:?}");
            calls += load.calls as u64;
        }
        settled(&cluster, calls).await;
        let cdrs = cluster.api(1).get("/v1/cdrs?limit=1000").await.unwrap();
        assert!(cdrs["cdrs"].as_array().unwrap().iter().all(|cdr| cdr["caller"] == format!("{PEER}@{DOMAIN}")), "{cdrs}");
    });
}
