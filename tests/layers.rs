//! Imports point down only (docs/ARCHITECTURE.md, *The code*). This reads every `crate::` in the sources.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Where a file belongs: its layer, and its part within the layer. The first prefix that fits counts.
const PLACES: [(&str, u8, &str); 21] = [
    ("main.rs", 5, "program"),
    ("lib.rs", 5, "program"),
    ("cli", 5, "program"),
    ("node", 5, "program"),
    ("api", 4, "face"),
    ("actors", 3, "actors"),
    ("cluster/state", 1, "records"),
    ("cluster", 2, "cluster"),
    ("media/core", 1, "sdp"),
    ("media", 2, "media"),
    ("sip", 1, "sip"),
    ("routing", 1, "routing"),
    ("ids", 0, "ground"),
    ("clock", 0, "ground"),
    ("config", 0, "ground"),
    ("families", 0, "ground"),
    ("fence", 0, "ground"),
    ("seal", 0, "ground"),
    ("stun", 0, "ground"),
    ("telemetry", 0, "ground"),
    ("", 9, "nowhere"),
];

/// What a layer must not even know by name: layer 1 has no IO, no clock, no task and no randomness.
const IMPURE: [&str; 8] =
    ["tokio::", "std::net::UdpSocket", "std::fs", "std::thread", "rand::", "Instant::now", "SystemTime::now", "clock::now"];

fn place(path: &str) -> (u8, &'static str) {
    let fits = |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['/', '.']));
    let (_, layer, part) = PLACES.iter().find(|(prefix, ..)| prefix.is_empty() || fits(prefix)).unwrap();
    (*layer, part)
}

/// Whether a file of one place may import from another.
fn may(from: (u8, &str), to: (u8, &str)) -> bool {
    let down = to.0 < from.0;
    match (from, to) {
        _ if from.1 == to.1 => true,
        // The engines know their own pure half only.
        ((2, "cluster"), (1, part)) => part == "records",
        ((2, "media"), (1, part)) => part == "sdp",
        _ => down,
    }
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file without its comments and tests: tests may use whatever they need.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let before_tests = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    before_tests.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn imports(code: &str) -> Vec<String> {
    let path = |rest: &str| -> String {
        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect::<String>().replace("::", "/")
    };
    code.match_indices("crate::").map(|(at, found)| path(&code[at + found.len()..])).collect()
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in sources(&root) {
        let name = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        if name.ends_with("tests.rs") {
            continue;
        }
        let from = place(&name);
        assert_ne!(from.1, "nowhere", "{name} has no place on the map");
        let code = code(&file);
        for import in imports(&code) {
            if !may(from, place(&import)) {
                wrong.push(format!("{name} (layer {}, {}) imports {import}", from.0, from.1));
            }
        }
        let impure = IMPURE.iter().filter(|word| from.0 == 1 && code.contains(**word));
        wrong.extend(impure.map(|word| format!("{name} is pure, and says {word}")));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_rule_itself() {
    let may = |from: &str, to: &str| may(place(from), place(to));
    assert!(may("actors/call.rs", "sip/b2bua") && may("cluster/wire.rs", "ids") && may("media/relay.rs", "media/core/LegPlan"));
    for (from, to) in [
        ("sip/leg.rs", "cluster/state"),
        ("sip/leg.rs", "media/core"),
        ("media/relay.rs", "sip/message"),
        ("media/relay.rs", "cluster"),
        ("cluster/mod.rs", "media/relay"),
        ("cluster/mod.rs", "sip/message"),
        ("cluster/state/vnode.rs", "cluster/storage"),
        ("actors/call.rs", "api/problem"),
        ("api/calls.rs", "cli/http"),
        ("ids.rs", "sip/token"),
    ] {
        assert!(!may(from, to), "{from} -> {to}");
    }
}

/// Files are for one sitting: past 800 lines one is two.
#[test]
fn no_file_is_longer_than_a_sitting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let long = |file: &PathBuf| fs::read_to_string(file).unwrap().lines().count() > 800;
    let long: Vec<_> = sources(&root).into_iter().filter(long).collect();
    assert!(long.is_empty(), "{long:?}");
}
