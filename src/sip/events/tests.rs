use super::super::{Role, Seen, Stage};
use super::*;
use crate::ids::Aor;
use crate::sip::headers::Transport;
use crate::sip::message::Message;
use crate::sip::parse;

const LIFETIMES: Lifetimes = Lifetimes { min: Duration::from_secs(60), max: Duration::from_secs(3600) };
const BEGIN: Timestamp = Timestamp(1_000);
const ID: CallId = CallId(7);

fn flow(transport: Transport, port: u16) -> Flow {
    let (local, remote) = ("192.0.2.1:5060".parse().unwrap(), ([192, 0, 2, 7], port).into());
    Flow { vnode: VnodeId(2), transport, local, remote, connection: u32::from(port) }
}

fn phone() -> Phone {
    Phone { aor: Aor::new("w", "x"), instance: Some("i".into()) }
}

fn request(method: &str, cseq: u32, to: &str, more: &str) -> Request {
    let text = format!(
        "{method} sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK{cseq}\r\nFrom: <sip:w@x>;tag=w\r\nTo: {to}\r\nCall-ID: c\r\n\
         CSeq: {cseq} {method}\r\nContact: <sip:w@192.0.2.7:5061>\r\n{more}\r\n"
    );
    let Ok(Message::Request(request)) = parse::datagram(&text.into()) else { unreachable!() };
    request
}

fn notifier(state: Watched) -> Notifier {
    Notifier::new(VnodeId(2), state, LIFETIMES, Timers::RFC, 5)
}

struct World {
    notifier: Notifier,
    calls: Vec<Seen>,
    now: Timestamp,
    by: Flow,
    /// There is no majority.
    refuses: bool,
}

impl World {
    fn new(transport: Transport) -> Self {
        let (by, calls) = (flow(transport, 5061), Vec::new());
        Self { notifier: notifier(Watched::default()), calls, now: BEGIN, by, refuses: false }
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        let aor = Aor::new("b", "x");
        let sources = Sources { aor: &aor, bindings: &[], calls: &self.calls };
        let step = self.notifier.handle(input, sources, self.now);
        let mut outputs = step.then;
        match step.commit {
            None => outputs.extend(self.notifier.leave(self.now)),
            Some(_) if self.refuses => {
                self.notifier.roll_back(self.now);
                outputs = step.otherwise;
            }
            Some(state) => {
                assert_eq!(state, *self.notifier.state());
                outputs.extend(self.notifier.committed(self.now));
            }
        }
        outputs
    }

    fn subscribe(&mut self, more: &str) -> Vec<Output> {
        let request = request("SUBSCRIBE", 1, "<sip:b@x>", more);
        self.input(Input::Subscribe { request, flow: self.by, id: ID, phone: Some(phone()) })
    }

    fn again(&mut self, cseq: u32, more: &str) -> Vec<Output> {
        let to = format!("<sip:b@x>;tag={}", Token { vnode: VnodeId(2), call: ID, leg: LEG });
        self.input(Input::Within(ID, request("SUBSCRIBE", cseq, &to, more), self.by))
    }

    fn changed(&mut self, package: Package) -> Vec<Output> {
        self.input(Input::Changed(BTreeSet::from([package])))
    }

    fn answer(&mut self, notify: &Request, code: u16) -> Vec<Output> {
        self.input(Input::Response(ID, notify.response(StatusCode::new(code).unwrap(), None)))
    }

    fn run_until(&mut self, until: Timestamp) -> Vec<Output> {
        let mut out = Vec::new();
        while let Some(at) = self.notifier.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            out.extend(self.input(Input::Timeout));
        }
        self.now = until;
        out
    }
}

fn statuses(out: &[Output]) -> Vec<u16> {
    let status = |output: &Output| match output {
        Output::Respond(response, _) => Some(response.status.code()),
        Output::Send(..) | Output::Look(..) => None,
    };
    out.iter().filter_map(status).collect()
}

fn notifies(out: &[Output]) -> Vec<Request> {
    let request = |output: &Output| match output {
        Output::Send(_, request, _) => Some(request.clone()),
        Output::Respond(..) | Output::Look(..) => None,
    };
    out.iter().filter_map(request).collect()
}

fn header(request: &Request, name: Name) -> String {
    request.headers.text(&name).unwrap().to_string()
}

fn early() -> Seen {
    Seen { call: CallId(1), role: Role::Recipient, stage: Stage::Early, remote: Some("a@x".into()) }
}

#[test]
fn who_watches_is_told_at_once_and_whenever_something_changes() {
    let mut world = World::new(Transport::Udp);
    let out = world.subscribe("Event: dialog;id=9\r\nExpires: 600\r\n");
    let [Output::Respond(ok, _), Output::Send(_, first, _)] = &out[..] else { panic!("the answer comes first: {out:?}") };
    assert_eq!((ok.status, &ok.headers.text(&Name::Expires).unwrap()[..]), (StatusCode::OK, "600"));
    assert_eq!(&*first.uri, "sip:w@192.0.2.7:5061");
    assert_eq!(
        (header(first, Name::Event), header(first, Name::SubscriptionState)),
        ("dialog;id=9".into(), "active;expires=600".into())
    );
    assert_eq!(header(first, Name::ContentType), "application/dialog-info+xml");
    assert!(String::from_utf8_lossy(&first.body).contains("version=\"0\""));
    let own = Token { vnode: VnodeId(2), call: ID, leg: LEG };
    assert_eq!(ok.headers.to().unwrap().tag().unwrap().parse(), Ok(own));
    assert_eq!(first.headers.top_via().unwrap().branch().and_then(Token::from_branch), Some(own));

    // One at a time.
    world.calls = vec![early()];
    assert!(world.changed(Package::Dialog).is_empty());
    assert!(world.changed(Package::Presence).is_empty());
    let second = notifies(&world.answer(first, 200));
    assert_eq!(second.len(), 1);
    assert!(String::from_utf8_lossy(&second[0].body).contains("version=\"1\"") && second[0].body.len() > first.body.len());
    assert!(world.answer(first, 200).is_empty(), "said again");
    assert!(!world.notifier.is_quiet());
    assert!(world.answer(&second[0], 200).is_empty());
    assert!(world.notifier.is_quiet());
}

#[test]
fn a_subscription_is_refreshed_asked_for_again_and_ended() {
    let mut world = World::new(Transport::Udp);
    let first = notifies(&world.subscribe("Event: presence\r\n")).remove(0);
    // Its 200 was lost.
    let out = world.subscribe("Event: presence\r\n");
    assert_eq!((statuses(&out), notifies(&out).len(), world.notifier.state().subscriptions.len()), (vec![200], 0, 1));
    world.answer(&first, 200);
    world.now = BEGIN + Duration::from_secs(3000);
    let out = world.again(2, "Event: presence\r\nExpires: 1000\r\n");
    assert_eq!((statuses(&out), notifies(&out).len()), (vec![200], 1));
    assert_eq!((statuses(&world.again(2, "Event: presence\r\n")), world.notifier.state().subscriptions.len()), (vec![200], 1));
    assert_eq!(statuses(&world.again(1, "Event: presence\r\n")), [500]);
    assert_eq!(statuses(&world.again(3, "Event: dialog\r\n")), [489]);
    let out = world.again(4, "Event: presence\r\nExpires: 0\r\n");
    assert_eq!(statuses(&out), [200]);
    assert_eq!(header(&notifies(&out)[0], Name::SubscriptionState), "terminated;reason=timeout");
    assert_eq!(statuses(&world.again(5, "Event: presence\r\n")), [481]);
    world.answer(&notifies(&out)[0], 200);
    assert!(world.notifier.is_quiet() && world.notifier.state().is_empty() && world.notifier.subscriptions().is_empty());

    // Who asks but once.
    let out = world.subscribe("Event: presence\r\nExpires: 0\r\n");
    assert_eq!((statuses(&out), notifies(&out).len()), (vec![200], 1));
    assert!(world.notifier.state().is_empty());
}

#[test]
fn who_says_nothing_any_more_is_told_the_end() {
    let mut world = World::new(Transport::Udp);
    let first = notifies(&world.subscribe("Event: reg\r\nExpires: 60\r\n")).remove(0);
    world.answer(&first, 200);
    assert!(world.run_until(BEGIN + Duration::from_millis(59_999)).is_empty());
    let last = notifies(&world.run_until(BEGIN + Duration::from_secs(60)));
    assert_eq!(header(&last[0], Name::SubscriptionState), "terminated;reason=timeout");
    assert!(world.notifier.state().is_empty());
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let mut world = World::new(Transport::Udp);
    for (more, code) in [
        ("", 489),
        ("Event: weather\r\n", 489),
        ("Event: dialog\r\nAccept: text/plain\r\n", 406),
        ("Event: dialog\r\nExpires: 59\r\n", 423),
        ("Event: dialog\r\nExpires: soon\r\n", 400),
    ] {
        assert_eq!(statuses(&world.subscribe(more)), [code], "{more}");
        assert!(world.notifier.state().is_empty() && world.notifier.is_quiet());
    }
}

#[test]
fn who_does_not_take_a_notify_watches_no_more() {
    for code in [481, 500, 603] {
        let mut world = World::new(Transport::Udp);
        let first = notifies(&world.subscribe("Event: dialog\r\n")).remove(0);
        world.answer(&first, code);
        assert!(world.notifier.state().is_empty() && world.notifier.is_quiet(), "{code}");
    }
    // Who is silent.
    let mut world = World::new(Transport::Udp);
    let again = notifies(&world.subscribe("Event: dialog\r\n"));
    let repeated = notifies(&world.run_until(BEGIN + Duration::from_secs(40)));
    assert!(repeated.len() > 5 && repeated.iter().all(|repeated| *repeated == again[0]), "{}", repeated.len());
    assert!(world.notifier.state().is_empty() && world.notifier.is_quiet());
}

#[test]
fn what_is_not_committed_is_not_promised_and_is_told_later() {
    let mut world = World::new(Transport::Udp);
    world.refuses = true;
    let out = world.subscribe("Event: dialog\r\n");
    assert_eq!((statuses(&out), notifies(&out).len()), (vec![503], 0));
    // It may have been committed all the same: that is undone.
    assert!(world.run_until(BEGIN + Duration::from_millis(1500)).is_empty());
    assert!(!world.notifier.is_quiet());
    world.refuses = false;
    assert!(world.run_until(BEGIN + Duration::from_millis(2500)).is_empty());
    assert!(world.notifier.is_quiet());
    let first = notifies(&world.subscribe("Event: dialog\r\n")).remove(0);
    world.answer(&first, 200);
    world.refuses = true;
    assert!(world.changed(Package::Dialog).is_empty());
    assert!(world.run_until(BEGIN + Duration::from_secs(4)).is_empty());
    world.refuses = false;
    let told = notifies(&world.run_until(BEGIN + Duration::from_secs(6)));
    assert!(!told.is_empty() && told.iter().all(|repeated| *repeated == told[0]));
    assert!(told[0].headers.cseq().unwrap().number > first.headers.cseq().unwrap().number);
}

/// A phone on a connection that has ended is looked for until it is back.
#[test]
fn who_comes_back_by_another_connection_is_told_there() {
    let mut world = World::new(Transport::Tls);
    let first = notifies(&world.subscribe("Event: dialog\r\n")).remove(0);
    world.answer(&first, 200);
    world.changed(Package::Dialog);
    assert!(world.input(Input::Unsent(ID)).is_empty());
    let out = world.run_until(world.now + AGAIN);
    let [Output::Look(id, whom, by, target)] = &out[..] else { panic!("{out:?}") };
    assert_eq!((*id, whom, *by, &**target), (ID, &phone(), world.by, "sip:w@192.0.2.7:5061"));
    assert!(world.input(Input::Back(ID, None)).is_empty());
    let other = flow(Transport::Tls, 6000);
    let out = world.input(Input::Back(ID, Some(other)));
    assert!(matches!(&out[..], [Output::Send(_, _, by)] if *by == other), "{out:?}");
    assert_eq!(world.notifier.state().subscriptions[0].dialog.flow, other);
    world.answer(&notifies(&out)[0], 200);
    assert!(world.notifier.is_quiet());
}

/// RFC 6665 §4.2.2: not before the phone wants it.
#[test]
fn who_wants_to_be_told_later_is_told_then() {
    let mut world = World::new(Transport::Udp);
    let first = notifies(&world.subscribe("Event: dialog\r\n")).remove(0);
    let busy = first.response(StatusCode::SERVICE_UNAVAILABLE, None).with(Name::RetryAfter, "7 (lunch)");
    assert!(world.input(Input::Response(ID, busy)).is_empty());
    assert!(world.changed(Package::Dialog).is_empty());
    assert!(world.run_until(BEGIN + Duration::from_millis(6_999)).is_empty());
    assert_eq!(notifies(&world.run_until(BEGIN + Duration::from_secs(7))).len(), 1);
}

#[test]
fn nobody_takes_all_places_or_says_too_much() {
    let mut world = World::new(Transport::Udp);
    let ask = |world: &mut World, n: usize, watcher: &str, more: &str| {
        let mut request = request("SUBSCRIBE", 1, "<sip:b@x>", &format!("Event: dialog\r\n{more}"));
        request.headers.set(Name::CallId, format!("c{n}"));
        let phone = Some(Phone { aor: Aor::new(watcher, "x"), instance: None });
        let id = CallId(n as u128);
        statuses(&world.input(Input::Subscribe { request, flow: world.by, id, phone }))[0]
    };
    for n in 0..MAX_SUBSCRIPTIONS {
        assert_eq!(ask(&mut world, n, &format!("w{}", n / MAX_OF_A_WATCHER), ""), 200);
    }
    assert_eq!(ask(&mut world, 1000, "w0", ""), 403);
    assert_eq!(ask(&mut world, 1001, "somebody", ""), 403);
    assert_eq!(ask(&mut world, 1002, "b", ""), 200, "the user itself");
    let long = format!("Record-Route: <sip:{}.x;lr>\r\n", "p".repeat(MAX_DIALOG));
    assert_eq!(ask(&mut world, 1003, "b", &long), 513);
    // Who asks but once, too often.
    let mut world = World::new(Transport::Udp);
    let asked: Vec<u16> = (0..=MAX_LAST).map(|n| ask(&mut world, n, "w", "Expires: 0\r\n")).collect();
    assert!(asked[..MAX_LAST].iter().all(|code| *code == 200) && asked[MAX_LAST] == 503, "{asked:?}");
}

#[test]
fn who_may_watch_no_more_is_told_so() {
    let mut world = World::new(Transport::Tls);
    let first = notifies(&world.subscribe("Event: dialog\r\n")).remove(0);
    // Its connection is there: it is told once more.
    assert_eq!(notifies(&world.input(Input::Connected(ID))), std::slice::from_ref(&first));
    world.answer(&first, 200);
    assert!(world.input(Input::Connected(ID)).is_empty());
    let again = request("SUBSCRIBE", 2, "<sip:b@x>", "Event: dialog\r\n");
    let out = world.input(Input::Rejected(ID, again, world.by));
    assert_eq!(statuses(&out), [403]);
    assert_eq!(header(&notifies(&out)[0], Name::SubscriptionState), "terminated;reason=rejected");
    assert!(world.notifier.state().is_empty());
}
