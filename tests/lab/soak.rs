//! Calls that come and go while something is broken again and again, and the history of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;
use tandem::sip::Method;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cluster::{Cluster, DOMAIN, PATIENCE};
use super::floor::Floor;
use super::history::{During, Event, History, check};
use super::net::{Net, Watch};
use super::until;

/// What the promise allows when a process dies, when it is only silent, and when all is well or planned; with room for a machine
/// that does everything at once.
const DEAD: Duration = Duration::from_millis(250);
const SILENT: Duration = Duration::from_millis(660);
const PLANNED: Duration = Duration::from_millis(150);
/// How long something stays broken.
const BROKEN: Duration = Duration::from_secs(2);
/// After this nothing is left of a call that has ended.
const LINGER: Duration = Duration::from_secs(50);
/// Every call has been heard again.
const HEARD: Duration = Duration::from_millis(500);

/// How much of it.
pub struct Plan {
    /// Pairs of phones; each calls, talks, hangs up, and calls again.
    pub pairs: usize,
    /// How long.
    pub span: Duration,
    /// From one fault to the next.
    pub every: Duration,
    /// The longest talk.
    pub talk: Duration,
    /// What happens, and to whom.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Freeze,
    FreezeHost,
    Cut,
    CutFrom,
    CutTo,
    Cable,
    Loss,
    Move,
}

const FAULTS: [Fault; 9] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::FreezeHost,
    Fault::Cut,
    Fault::CutFrom,
    Fault::CutTo,
    Fault::Cable,
    Fault::Loss,
    Fault::Move,
];

impl Fault {
    fn bound(self) -> Duration {
        match self {
            Self::Kill => DEAD,
            Self::Loss | Self::Move => PLANNED,
            Self::Freeze | Self::FreezeHost | Self::Cut | Self::CutFrom | Self::CutTo | Self::Cable => SILENT,
        }
    }
}

type Talks = Arc<Mutex<BTreeMap<String, [Talk; 2]>>>;

/// What a pair of phones has.
#[derive(Clone)]
struct Pair {
    server: std::net::SocketAddr,
    caller: (String, String),
    callee: (String, String),
    talk: Duration,
    talks: Talks,
    history: Arc<History>,
    during: watch::Receiver<During>,
}

/// Runs a plan; gives what the checker found, and prints the figures.
pub async fn run(net: Arc<Net>, plan: Plan) -> Vec<String> {
    let mut cluster = Cluster::at(&net, 2 * plan.pairs).await;
    let watch = Watch::start();
    let path = std::env::temp_dir().join(format!("tandem-history-{}.jsonl", std::process::id()));
    let history = Arc::new(History::at(&path));
    let talks = Talks::default();
    let (now, during) = watch::channel(During::from_now("nothing", PLANNED));
    let floor = Floor::watch();
    let mut dice = StdRng::seed_from_u64(plan.seed);
    let (ending, ended) = watch::channel(false);
    let mut pairs = JoinSet::new();
    for n in 0..plan.pairs {
        let pair = Pair {
            server: cluster.sip[n % 6],
            caller: cluster.users[2 * n].clone(),
            callee: cluster.users[2 * n + 1].clone(),
            talk: plan.talk,
            talks: talks.clone(),
            history: history.clone(),
            during: during.clone(),
        };
        pairs.spawn(pair.keep_calling(StdRng::seed_from_u64(dice.random()), ended.clone()));
    }
    tokio::time::sleep(HEARD * 4).await;
    let begin = Instant::now();
    let mut gaps: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let mut memory = Vec::new();
    let mut faults = 0;
    let mut stalls = Vec::new();
    // What was broken until now, and is told of; what is from now on.
    let mut turn = |next: During| {
        let during = now.borrow().clone();
        for (caller, pair) in talks.lock().unwrap().iter() {
            for talk in pair {
                let gap = talk.take_gap();
                history.gap(caller, gap, &during);
                gaps.entry(during.what.clone()).or_default().push(gap);
            }
        }
        let stood = floor.take();
        history.floor(&stood);
        stalls.extend(stood.into_iter().map(|stall| stall.late));
        now.send_replace(next);
    };
    while begin.elapsed() < plan.span {
        let next = Instant::now() + plan.every;
        let (fault, node) = (FAULTS[dice.random_range(0..FAULTS.len())], dice.random_range(1..=3));
        history.saw(Event::Fault { what: format!("{fault:?}"), node });
        turn(During::from_now(format!("{fault:?}"), fault.bound()));
        strike(fault, node, &net, &mut cluster).await;
        until("every vnode is at home", PATIENCE * 2, || cluster.is_at_home()).await;
        tokio::time::sleep(HEARD).await;
        turn(During::from_now("nothing", PLANNED));
        faults += 1;
        tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
        memory.push((begin.elapsed().as_secs(), cluster.memory()));
    }
    turn(During::from_now("nothing", PLANNED));
    ending.send_replace(true);
    while let Some(done) = pairs.join_next().await {
        done.unwrap();
    }
    history.floor(&floor.take());
    // Refused calls linger for a while; what is there after that is the checker's.
    let deadline = Instant::now() + LINGER;
    let left = async || {
        let mut left = 0;
        for node in 1..=3 {
            left += cluster.count(node, "/v1/cluster", "calls").await;
        }
        left
    };
    while left().await > 0 && Instant::now() < deadline {
        tokio::time::sleep(HEARD).await;
    }
    tokio::time::sleep(HEARD * 2).await;
    let entries = history.close(&cluster, &net, &watch).await;
    let broken = check(&entries);
    let count = |is: &dyn Fn(&Event) -> bool| entries.iter().filter(|entry| is(&entry.event)).count();
    let answered = count(&|event| matches!(event, Event::Answered { .. }));
    let refused = count(&|event| matches!(event, Event::Refused { .. }));
    let lost = count(&|event| matches!(event, Event::Lost { .. }));
    println!("{faults} faults in {} s; {answered} calls answered, {lost} lost, {refused} refused", begin.elapsed().as_secs());
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in &entries {
        if let Event::Refused { why, .. } = &entry.event {
            *reasons.entry(why).or_default() += 1;
        }
    }
    for (why, times) in reasons {
        println!("refused {times} times: {why}");
    }
    println!("| during | streams | median ms | p99 | worst |\n|---|---|---|---|---|");
    for (during, mut spans) in gaps {
        spans.sort_unstable();
        let at = |percent: usize| spans[(spans.len() * percent / 100).min(spans.len() - 1)].as_millis();
        println!("| {during} | {} | {} | {} | {} |", spans.len(), at(50), at(99), at(100));
    }
    stalls.sort_unstable();
    let longest: Vec<_> = stalls.iter().rev().take(5).map(Duration::as_millis).collect();
    println!("{} times a core gave no turn for 10 ms or more; the longest, in ms: {longest:?}", stalls.len());
    for (at, megabytes) in memory.iter().step_by((memory.len() / 6).max(1)).chain(memory.last()) {
        println!("after {at} s the nodes have {megabytes:?} MB");
    }
    if broken.is_empty() {
        let _ = std::fs::remove_file(&path);
    } else {
        println!("the history is in {}", path.display());
    }
    broken
}

async fn strike(fault: Fault, node: usize, net: &Net, cluster: &mut Cluster) {
    match fault {
        Fault::Kill => cluster.kill(node),
        Fault::Freeze => cluster.freeze(node, true),
        Fault::FreezeHost => net.freeze(node, true),
        Fault::Cut => net.cut(node),
        Fault::CutFrom => net.cut_from(node),
        Fault::CutTo => net.cut_to(node),
        Fault::Cable => net.pull(node, true),
        Fault::Loss => net.lose(20),
        Fault::Move => {
            let to = (node % 3 + 1).to_string();
            cluster.command(&["move", &node.to_string(), &to]).await.unwrap();
        }
    }
    tokio::time::sleep(BROKEN).await;
    match fault {
        Fault::Kill => cluster.start_again(node),
        Fault::Freeze => cluster.freeze(node, false),
        Fault::FreezeHost => net.freeze(node, false),
        Fault::Cut | Fault::CutFrom | Fault::CutTo | Fault::Loss => net.heal(),
        Fault::Cable => net.pull(node, false),
        Fault::Move => drop(cluster.command(&["move", &node.to_string(), &node.to_string()]).await.unwrap()),
    }
}

impl Pair {
    async fn keep_calling(self, mut dice: StdRng, ended: watch::Receiver<bool>) {
        let mut call = 0;
        let (mut a, mut b) = (self.phone(&self.caller).await, self.phone(&self.callee).await);
        while !*ended.borrow() {
            match self.set_up(&mut a, &mut b).await {
                Ok(talks) => {
                    call += 1;
                    let caller = self.caller.0.clone();
                    self.history.saw(Event::Answered { caller: caller.clone(), call });
                    self.talks.lock().unwrap().insert(caller.clone(), talks);
                    let by_callee = dice.random_bool(0.5);
                    let pause = self.talk.mul_f64(dice.random());
                    self.history.saw(match self.carry(&mut a, &mut b, pause, by_callee, ended.clone()).await {
                        Ok(()) => Event::HungUp { caller, call },
                        Err(why) => Event::Lost { caller, call, why: format!("{why:#}") },
                    });
                }
                Err(why) => {
                    self.history.saw(Event::Refused { caller: self.caller.0.clone(), why: format!("{why:#}") });
                    tokio::time::sleep(HEARD).await;
                }
            }
        }
    }

    async fn phone(&self, (user, password): &(String, String)) -> Phone {
        Phone::new(user, password, DOMAIN, self.server, (super::phones(), 0).into()).await.unwrap()
    }

    async fn set_up(&self, a: &mut Phone, b: &mut Phone) -> anyhow::Result<[Talk; 2]> {
        let mut sockets = Vec::new();
        for phone in [&mut *a, &mut *b] {
            let socket = UdpSocket::bind((super::phones(), 0)).await?;
            phone.set_media(socket.local_addr()?);
            sockets.push(socket);
        }
        b.register().await?;
        self.history.saw(Event::Registered { user: self.callee.0.clone() });
        let (a_to, b_to) = tokio::join!(a.call(&self.callee.0), b.answer());
        let (a_to, b_to, b_media, a_media) = (a_to?, b_to?, sockets.pop(), sockets.pop());
        Ok([Talk::start(a_media.unwrap(), a_to), Talk::start(b_media.unwrap(), b_to)])
    }

    /// They talk; the caller looks once whether its dialog is known; one of them hangs up.
    async fn carry(
        &self,
        a: &mut Phone,
        b: &mut Phone,
        pause: Duration,
        by_callee: bool,
        mut ended: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        stay(a, b, pause / 2, &mut ended).await?;
        let answer = a.ask_within(Method::Options, "").await?;
        anyhow::ensure!(answer.status.code() == 200, "OPTIONS: {}", answer.status);
        stay(a, b, pause / 2, &mut ended).await?;
        let talks = self.talks.lock().unwrap().remove(&self.caller.0);
        let during = self.during.borrow().clone();
        for talk in talks.iter().flatten() {
            self.history.gap(&self.caller.0, talk.take_gap(), &during);
        }
        drop(talks);
        let (one, other) = if by_callee { (b, a) } else { (a, b) };
        let (hung_up, told) = tokio::join!(one.hang_up(), other.wait_for_bye());
        hung_up.and(told)
    }
}

/// Both stay in their call for so long, or until all is to end.
async fn stay(a: &mut Phone, b: &mut Phone, span: Duration, ended: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
    tokio::select! {
        stayed = async { tokio::try_join!(a.stay(span), b.stay(span)) } => stayed.map(drop),
        _ = ended.wait_for(|ended| *ended) => Ok(()),
    }
}
