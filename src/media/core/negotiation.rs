//! What formats the two sides of a stream have in common, and what is made into what where they have none (RFC 3264 §6, §8; RFC 3550 §7.2). Layer: pure.
//!
//! ```text
//!  offerer's list ──▶ the same, and ours behind it ──▶ answerer
//!  offerer ◀── what both have; else the offerer's first that we can code ◀── answerer's list
//! ```
//!
//! We are a translator and no mixer: source, sequence numbers and (by their clocks) timestamps of a packet stay what they are. So nobody who takes a
//! call over needs to know how far we were.
//!
//! Invariants: what both sides have passes as it is; a number that we have given to a format stays that format's for the call (§8.3.2).

use sdp_types::Media;

use super::codec::g711::Law;
use super::formats::{Codec, Format, Kind, like, number, read, write};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The two have none in common, and at least one of them none that we could code.
    #[error("no format in common")]
    NothingInCommon,
}

/// What may be done for a side that is offered something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy<'a> {
    /// What it may be offered besides.
    pub codecs: &'a [Codec],
    /// Keys become events where it has those and the other side hasn't, and sound where it is the other way round.
    pub keys: bool,
}

/// What an offer becomes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offered {
    /// What the offerer has.
    pub theirs: Vec<Format>,
    /// What the other side is told: the same, and ours.
    pub told: Vec<Format>,
    /// See [`Policy::keys`].
    pub keys: bool,
}

/// What an answer becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// What becomes of the offerer's packets, and of the answerer's, by their payload types. `None` if they pass as they are.
    pub rules: Option<[Vec<Rule>; 2]>,
    /// By which payload type and clock keys in the sound of each go to the other.
    pub events: [Option<(u8, u32)>; 2],
}

/// What becomes of packets of one payload type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// As it comes.
    pub from: u8,
    /// As it goes.
    pub to: u8,
    /// What is done.
    pub how: How,
    /// Ticks of its time in a second; none if it is no sound.
    pub clock: Option<u32>,
}

/// What is done to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Nothing but its number.
    Pass,
    /// Sound is coded anew.
    Code(Codec, Codec),
    /// An event, by the clocks of what it lasts; its time is by the sound's.
    Events(u32, u32),
    /// An event by this clock becomes sound.
    Tone(u32, Law),
    /// Sound passes as it is, and keys in it are heard.
    Listen(Law),
}

/// What becomes of one side's packets. Without rules they pass as they are, and with some no others do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// By payload type.
    pub rules: Vec<Rule>,
    /// By which payload type and clock keys in its sound go to the other.
    pub events: Option<(u8, u32)>,
}

impl Rules {
    /// Packets pass as they are.
    pub fn pass(&self) -> bool {
        self.rules.iter().all(|rule| rule.how == How::Pass && rule.from == rule.to)
    }
}

/// What was said of a stream's formats.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Formats {
    /// What each side has said last.
    pub theirs: [Vec<Format>; 2],
    /// What each was told last.
    pub told: [Vec<Format>; 2],
    /// Those that we have given a number toward each: it is theirs for the call (RFC 3264 §8.3.2).
    pub given: [Vec<Format>; 2],
    /// What the two go by since the last answer: that, and ours to the other side.
    pub agreed: Option<[Vec<Format>; 2]>,
    /// An offer has no answer yet: until it has, what is agreed stands.
    pub is_open: bool,
    /// See [`Policy::keys`].
    pub keys: bool,
}

impl Formats {
    /// A side's offer, made over for the other.
    #[must_use]
    pub fn offer(&self, from: usize, media: &mut Media, policy: Policy<'_>) -> Self {
        let to = 1 - from;
        let Offered { theirs, told, keys } = offer(media, policy, &self.given[to]);
        let mut formats = Self { is_open: true, keys, ..self.clone() };
        let is_ours = |format: &&Format| theirs.iter().all(|own| own.payload != format.payload);
        let is_new = |format: &&Format| self.given[to].iter().all(|given| given.payload != format.payload);
        formats.given[to].extend(told.iter().filter(is_ours).filter(is_new).cloned());
        (formats.theirs[from], formats.told[to]) = (theirs, told);
        formats
    }

    /// A side's answer, made over for the other.
    pub fn answer(&self, from: usize, media: &mut Media) -> Result<Self, FormatError> {
        let other = 1 - from;
        let mut formats = self.clone();
        formats.theirs[from] = read(media, &self.told[from]);
        formats.is_open = false;
        let offered = Offered { theirs: self.theirs[other].clone(), told: self.told[from].clone(), keys: self.keys };
        match answer(media, &offered) {
            // Who was told no more than the other has said is between those two.
            Err(FormatError::NothingInCommon) if self.told[from] == self.theirs[other] => {}
            answered => drop(answered?),
        }
        formats.told[other] = read(media, &self.theirs[other]);
        let mut agreed = [formats.theirs[from].clone(), formats.told[other].clone()];
        if from == 1 {
            agreed.reverse();
        }
        formats.agreed = Some(agreed);
        Ok(formats)
    }

    /// What a side and we go by.
    fn agreed(&self, side: usize) -> &[Format] {
        self.agreed.as_ref().map_or(&[], |agreed| &agreed[side])
    }

    /// What the numbers of a side's packets mean, as far as we can decode them; none if they are no sound by themselves.
    pub fn heard_from(&self, side: usize) -> Vec<(u8, Option<Codec>)> {
        let mut heard: Vec<(u8, Option<Codec>)> = Vec::new();
        // As in `with_more`: what it was told it may send.
        for format in self.agreed(side).iter().chain(&self.told[side]).chain(&self.theirs[side]) {
            let codec = format.codec();
            let is_known = codec.is_some() || !format.is_sound();
            if is_known && heard.iter().all(|(number, _)| *number != format.payload) {
                heard.push((format.payload, codec));
            }
        }
        heard
    }

    /// What becomes of a side's packets.
    pub fn rules(&self, from: usize) -> Rules {
        let rules = self.all_rules(from);
        if rules.pass() {
            return Rules::default();
        }
        self.with_more(from, rules)
    }

    fn with_more(&self, from: usize, mut rules: Rules) -> Rules {
        // RFC 3264 §6.1 is not everybody's: who answers may send what it was told and has not said, and by the numbers that it was told.
        for more in rules_of(&self.told[from], self.agreed(1 - from)) {
            if rules.rules.iter().all(|rule| rule.from != more.from) {
                rules.rules.push(more);
            }
        }
        rules
    }

    /// The same where all pass, and by which payload type and clock a key of a side's goes to the other. None if that knows no events.
    pub fn press(&self, from: usize) -> Option<Rules> {
        let is_event = |format: &&Format| format.kind == Kind::Events;
        let events = self.agreed(1 - from).iter().find(is_event).map(|format| (format.payload, format.clock))?;
        let all = self.all_rules(from);
        let passes = all.pass();
        let mut rules = self.with_more(from, all);
        if passes {
            // Nothing is made over for a key that isn't otherwise.
            rules.rules.iter_mut().for_each(|rule| (rule.to, rule.how) = (rule.from, How::Pass));
        }
        rules.events = Some(events);
        Some(rules).filter(|rules| !rules.rules.is_empty())
    }

    fn all_rules(&self, from: usize) -> Rules {
        let (here, there) = (self.agreed(from), self.agreed(1 - from));
        let mut rules = [rules_of(here, there), rules_of(there, here)];
        let mut events = None;
        if self.keys {
            let [out, back] = &mut rules;
            events = make_keys_over(here, there, back, out);
            make_keys_over(there, here, out, back);
        }
        let [rules, _] = rules;
        Rules { rules, events }
    }

    /// Whether somebody who passed everything on as it is would be wrong.
    pub fn is_needed(&self) -> bool {
        let was_told_more = || (0..2).any(|side| self.told[side] != self.theirs[1 - side]);
        (self.is_open && was_told_more()) || (0..2).any(|side| !self.rules(side).pass())
    }
}

/// Makes an offer over for the other side, by the numbers that were `given` in this call before.
pub fn offer(media: &mut Media, Policy { codecs: ours, keys }: Policy<'_>, given: &[Format]) -> Offered {
    let theirs = read(media, &[]);
    let mut told = theirs.clone();
    // Without one that we understand there would be nothing to make ours of.
    if theirs.iter().any(|format| format.codec().is_some()) {
        // Before the events: some look no further (baresip #718).
        let sound = theirs.iter().rposition(Format::is_sound).map_or(0, |last| last + 1);
        for (at, codec) in (sound..).zip(ours.iter().filter(|codec| theirs.iter().all(|format| format.codec() != Some(**codec))))
        {
            let is_it = |format: &Format| format.codec() == Some(*codec);
            if let Some(payload) = number(Some(*codec), is_it, given, &told) {
                told.insert(at.min(told.len()), Format::of(*codec, payload));
            }
        }
        add_events(&mut told, keys, given);
    }
    if told.len() > theirs.len() {
        // It was said of other formats than may be taken now.
        media.bandwidths.clear();
        write(media, &told, |format| format.payload);
    }
    Offered { theirs, told, keys }
}

/// Every phone that knows events knows them by this clock, whatever its sound has; and of two some take the wrong one (rtpengine #2044).
fn add_events(told: &mut Vec<Format>, keys: bool, given: &[Format]) {
    let is_it = |format: &Format| format.kind == Kind::Events && format.clock == 8000;
    if (keys || told.iter().any(|format| format.kind == Kind::Events)) && !told.iter().any(is_it) {
        told.extend(number(None, is_it, given, told).map(|payload| Format::events(8000, payload)));
    }
}

/// Makes the answer to it over for the offerer.
pub fn answer(media: &mut Media, offered: &Offered) -> Result<Agreed, FormatError> {
    let theirs = &offered.theirs;
    let answered = read(media, &offered.told);
    let (mut list, mut renumbered) = (Vec::new(), Vec::new());
    let mut push = |format: &Format, as_: &Format| {
        renumbered.push((as_.payload, format.payload));
        list.push(Format { payload: as_.payload, ..format.clone() });
    };
    for format in &answered {
        if let Some(known) = like(theirs, format) {
            push(format, known);
        }
    }
    let can_be_made = answered.iter().find(|format| format.codec().is_some());
    // What it will send, if it keeps to its own order.
    let first = answered.iter().find(|format| format.is_sound());
    let is_unknown = first.is_some_and(|first| first.codec().is_some() && !theirs.iter().any(|known| known.is_like(first)));
    let has_sound = list.iter().any(Format::is_sound);
    let has_codec = list.iter().any(|format| format.codec().is_some());
    if !has_sound || (is_unknown && !has_codec) {
        let chosen = theirs.iter().find(|format| format.codec().is_some()).filter(|_| can_be_made.is_some());
        match chosen.and_then(Format::codec).zip(chosen) {
            Some((codec, chosen)) => {
                // Noise and repair were for what it isn't any more.
                list.retain(|format| format.is_sound() || format.kind == Kind::Events);
                list.insert(usize::from(has_sound), Format::of(codec, chosen.payload));
            }
            None if has_sound => {}
            None => return Err(FormatError::NothingInCommon),
        }
    }
    let has_events = |list: &[Format]| list.iter().any(|format| format.kind == Kind::Events);
    let to_tones = offered.keys && !has_events(&answered) && law_of(&list, &answered).is_some();
    if (has_events(&answered) || to_tones) && !has_events(&list) {
        list.extend(
            theirs.iter().find(|format| format.kind == Kind::Events).map(|known| Format::events(known.clock, known.payload)),
        );
    }
    let mut rules = [rules_of(&list, &answered), rules_of(&answered, &list)];
    let mut events = [None; 2];
    if offered.keys {
        let [theirs, others] = &mut rules;
        events = [make_keys_over(&list, &answered, others, theirs), make_keys_over(&answered, &list, theirs, others)];
    }
    let is_changed = rules.iter().flatten().any(|rule| rule.how != How::Pass);
    if !is_changed {
        // Each sends by the other's numbers, and the relay has nothing to do.
        list = answered.iter().filter(|format| theirs.iter().any(|known| known.is_like(format))).cloned().collect();
    }
    if is_changed {
        // It was said of other formats.
        media.bandwidths.clear();
    }
    if list != answered {
        let number =
            |format: &Format| renumbered.iter().find(|(to, _)| *to == format.payload).map_or(format.payload, |(_, from)| *from);
        write(media, &list, |format| if is_changed { number(format) } else { format.payload });
    }
    Ok(Agreed { rules: is_changed.then_some(rules), events })
}

/// Where `there` has events and `here` hasn't: its events become sound, and keys in the sound of `here` its events, of which this gives payload type and
/// clock. `out` are the rules of its own packets, `back` those of the others.
fn make_keys_over(here: &[Format], there: &[Format], out: &mut Vec<Rule>, back: &mut [Rule]) -> Option<(u8, u32)> {
    let of_events = |format: &&Format| format.kind == Kind::Events;
    let events = there.iter().find(of_events).filter(|_| !here.iter().any(|format| of_events(&format)))?;
    let (to, tones) = law_of(there, here)?;
    out.push(Rule { from: events.payload, to, how: How::Tone(events.clock, tones), clock: None });
    for rule in back.iter_mut().filter(|rule| rule.how == How::Pass) {
        let format = here.iter().find(|format| format.payload == rule.from);
        rule.how = format.and_then(Format::codec).and_then(law).map_or(How::Pass, How::Listen);
    }
    Some((events.payload, events.clock))
}

/// The payload type of G.711 that sound `from` one side becomes for the other: nothing else carries tones well.
fn law_of(from: &[Format], to: &[Format]) -> Option<(u8, Law)> {
    let passes = to.iter().find(|format| format.is_sound() && from.iter().any(|other| other.is_like(format)));
    let format = passes.or_else(|| to.iter().find(|format| format.codec().is_some()))?;
    Some((format.payload, law(format.codec()?)?))
}

fn law(codec: Codec) -> Option<Law> {
    match codec {
        Codec::Pcmu => Some(Law::Mu),
        Codec::Pcma => Some(Law::A),
        Codec::G722 | Codec::Opus => None,
    }
}

/// What one side's packets become for the other.
fn rules_of(from: &[Format], to: &[Format]) -> Vec<Rule> {
    let rule = |format: &Format| {
        let pass = like(to, format).map(|other| (other, How::Pass));
        let (other, how) = pass.or_else(|| match format.kind {
            Kind::Coded(codec) => to.iter().find_map(|other| Some((other, How::Code(codec, other.codec()?)))),
            Kind::Events => {
                let other = to.iter().find(|other| other.kind == Kind::Events)?;
                Some((other, How::Events(format.clock, other.clock)))
            }
            Kind::Noise | Kind::Repair | Kind::Other => None,
        })?;
        Some(Rule { from: format.payload, to: other.payload, how, clock: Some(format.clock).filter(|_| format.is_sound()) })
    };
    let mut rules: Vec<_> = from.iter().filter_map(rule).collect();
    let changes_clock = |rule: &Rule| matches!(rule.how, How::Code(from, to) if from.clock() != to.clock());
    if rules.iter().any(changes_clock) {
        // Their times are by the sound's clock: those of events, too.
        for event in from.iter().filter(|format| format.kind == Kind::Events) {
            let passes = |rule: &&mut Rule| rule.from == event.payload && rule.how == How::Pass;
            rules.iter_mut().filter(passes).for_each(|rule| rule.how = How::Events(event.clock, event.clock));
        }
    }
    rules
}

#[cfg(test)]
mod tests;
