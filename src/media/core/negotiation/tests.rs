use super::*;
use sdp_types::Attribute;

/// A stream of these formats: `payload name parameters`.
fn media(formats: &[&str]) -> Media {
    let mut media = Media {
        media: "audio".into(),
        port: 4000,
        num_ports: None,
        proto: "RTP/AVP".into(),
        fmt: String::new(),
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    };
    let mut say = |name: &str, value: String| media.attributes.push(Attribute { attribute: name.into(), value: Some(value) });
    let mut numbers = Vec::new();
    for format in formats {
        let mut parts = format.splitn(3, ' ');
        let number = parts.next().unwrap();
        numbers.push(number);
        parts.next().into_iter().for_each(|name| say("rtpmap", format!("{number} {name}")));
        parts.next().into_iter().for_each(|parameters| say("fmtp", format!("{number} {parameters}")));
    }
    media.fmt = numbers.join(" ");
    media.attributes.push(Attribute { attribute: "ptime".into(), value: Some("20".into()) });
    media
}

/// As [`media`] takes them, without parameters.
fn list(media: &Media) -> Vec<String> {
    read(media, &[]).iter().map(|format| format!("{} {}", format.payload, format.name)).collect()
}

struct Case {
    what: &'static str,
    ours: &'static [Codec],
    offer: &'static [&'static str],
    /// What the answerer is told.
    told: &'static [&'static str],
    answer: &'static [&'static str],
    /// What the offerer is told; empty if it is refused.
    back: &'static [&'static str],
    /// `offerer's > answerer's` and back, with `~` for a change of codec, `%` for one of clocks. Empty if all pass as they are.
    rules: [&'static str; 2],
}

const ALL: &[Codec] = &Codec::ALL;
const NONE: &[Codec] = &[];
const ONLY_OPUS: Policy<'_> = Policy { codecs: &[Codec::Opus], keys: false };
const EVENTS: &str = "101 telephone-event/8000";
const CHROMIUM: &[&str] = &[
    "111 opus/48000/2",
    "63 red/48000/2",
    "9 G722/8000",
    "0 PCMU/8000",
    "8 PCMA/8000",
    "13 CN/8000",
    "110 telephone-event/48000",
    "126 telephone-event/8000",
];

const CASES: &[Case] = &[
    Case {
        what: "an answer by what wasn't offered, since it can be made",
        ours: NONE,
        offer: &["0 PCMU/8000", EVENTS],
        told: &["0 PCMU/8000", EVENTS],
        answer: &["96 opus/48000/2"],
        back: &["0 PCMU/8000"],
        rules: ["0~96", "96~0"],
    },
    Case {
        what: "both have it: it passes",
        ours: ALL,
        offer: &["8 PCMA/8000", "0 PCMU/8000", EVENTS],
        told: &["8 PCMA/8000", "0 PCMU/8000", "96 opus/48000/2", "9 G722/8000", EVENTS],
        answer: &["8 PCMA/8000", EVENTS],
        back: &["8 PCMA/8000", EVENTS],
        rules: ["", ""],
    },
    Case {
        what: "only Opus over there, with events by its clock, which nobody has offered",
        ours: ALL,
        offer: &["0", EVENTS],
        told: &["0 PCMU/8000", "96 opus/48000/2", "9 G722/8000", "8 PCMA/8000", EVENTS],
        answer: &["96 opus/48000/2", "97 telephone-event/48000"],
        back: &["0 PCMU/8000", EVENTS],
        rules: ["0~96 101%97", "96~0 97%101"],
    },
    Case {
        what: "only Opus over there, with events by the clock that all have",
        ours: ALL,
        offer: &["0 PCMU/8000", EVENTS],
        told: &["0 PCMU/8000", "96 opus/48000/2", "9 G722/8000", "8 PCMA/8000", EVENTS],
        answer: &["96 opus/48000/2", EVENTS],
        back: &["0 PCMU/8000", EVENTS],
        rules: ["0~96 101%101", "96~0 101%101"],
    },
    Case {
        what: "a browser and a desk phone have G.711 in common",
        ours: ALL,
        offer: CHROMIUM,
        told: CHROMIUM,
        answer: &["8 PCMA/8000", EVENTS],
        back: &["8 PCMA/8000", EVENTS],
        rules: ["", ""],
    },
    Case {
        what: "a browser that has nothing but Opus",
        ours: ALL,
        offer: &["111 opus/48000/2", "110 telephone-event/48000"],
        told: &[
            "111 opus/48000/2",
            "9 G722/8000",
            "8 PCMA/8000",
            "0 PCMU/8000",
            "110 telephone-event/48000",
            "96 telephone-event/8000",
        ],
        answer: &["0 PCMU/8000", "96 telephone-event/8000"],
        back: &["111 opus/48000/2", "110 telephone-event/48000"],
        rules: ["111~0 110%96", "0~111 96%110"],
    },
    Case {
        what: "the answerer keeps to its own order: what it sends is made over, what it gets is not",
        ours: ALL,
        offer: &["0 PCMU/8000"],
        told: &["0 PCMU/8000", "96 opus/48000/2", "9 G722/8000", "8 PCMA/8000"],
        answer: &["96 opus/48000/2", "0 PCMU/8000"],
        back: &["0 PCMU/8000"],
        rules: ["0>0", "96~0 0>0"],
    },
    Case {
        what: "what we don't know passes",
        ours: ALL,
        offer: &["18 G729/8000", "97 iLBC/8000", EVENTS],
        told: &["18 G729/8000", "97 iLBC/8000", EVENTS],
        answer: &["18 G729/8000", EVENTS],
        back: &["18 G729/8000", EVENTS],
        rules: ["", ""],
    },
    Case {
        what: "what we don't know isn't made of anything",
        ours: ALL,
        offer: &["18 G729/8000"],
        told: &["18 G729/8000"],
        answer: &["0 PCMU/8000"],
        back: &[],
        rules: ["", ""],
    },
    Case {
        what: "G.729 is shared, and Opus comes first",
        ours: ALL,
        offer: &["18 G729/8000", "0 PCMU/8000"],
        told: &["18 G729/8000", "0 PCMU/8000", "96 opus/48000/2", "9 G722/8000", "8 PCMA/8000"],
        answer: &["96 opus/48000/2", "18 G729/8000"],
        back: &["18 G729/8000", "0 PCMU/8000"],
        rules: ["18>18 0~96", "96~0 18>18"],
    },
    Case {
        what: "numbers of the answerer's own (RFC 3264 §6.1)",
        ours: ALL,
        offer: &["111 opus/48000/2"],
        told: &["111 opus/48000/2", "9 G722/8000", "8 PCMA/8000", "0 PCMU/8000"],
        answer: &["97 opus/48000/2"],
        back: &["97 opus/48000/2"],
        rules: ["", ""],
    },
    Case {
        what: "an answer that doesn't explain a number means what was offered",
        ours: ALL,
        offer: &["0 PCMU/8000"],
        told: &["0 PCMU/8000", "96 opus/48000/2", "9 G722/8000", "8 PCMA/8000"],
        answer: &["96"],
        back: &["0 PCMU/8000"],
        rules: ["0~96", "96~0"],
    },
    Case {
        what: "a number that is ours by custom is taken",
        ours: &[Codec::Opus, Codec::G722],
        offer: &["0 PCMU/8000", "9 weird/8000", "96 speex/16000"],
        told: &["0 PCMU/8000", "9 weird/8000", "96 speex/16000", "97 opus/48000/2", "98 G722/8000"],
        answer: &["98 G722/8000"],
        back: &["0 PCMU/8000"],
        rules: ["0~98", "98~0"],
    },
    Case {
        what: "a phone that takes the number of one event for the other (rtpengine #2044)",
        ours: ALL,
        offer: &["111 opus/48000/2", "110 telephone-event/48000"],
        told: &[
            "111 opus/48000/2",
            "9 G722/8000",
            "8 PCMA/8000",
            "0 PCMU/8000",
            "110 telephone-event/48000",
            "96 telephone-event/8000",
        ],
        answer: &["8 PCMA/8000", "110 telephone-event/8000"],
        back: &["111 opus/48000/2", "110 telephone-event/48000"],
        rules: ["111~8 110%110", "8~111 110%110"],
    },
    Case {
        what: "comfort noise passes where the sound does",
        ours: ALL,
        offer: &["0 PCMU/8000", "13 CN/8000"],
        told: &["0 PCMU/8000", "96 opus/48000/2", "9 G722/8000", "8 PCMA/8000", "13 CN/8000"],
        answer: &["0 PCMU/8000", "13 CN/8000"],
        back: &["0 PCMU/8000", "13 CN/8000"],
        rules: ["", ""],
    },
    Case {
        what: "and is not asked for where it doesn't",
        ours: ALL,
        offer: &["0 PCMU/8000", "13 CN/8000"],
        told: &["0 PCMU/8000", "96 opus/48000/2", "9 G722/8000", "8 PCMA/8000", "13 CN/8000"],
        answer: &["9 G722/8000", "13 CN/8000"],
        back: &["0 PCMU/8000"],
        rules: ["0~9", "9~0"],
    },
];

fn text(rules: &[Rule]) -> String {
    let one = |rule: &Rule| {
        let sign = match rule.how {
            How::Pass => '>',
            How::Code(..) => '~',
            How::Events(..) => '%',
            How::Tone(..) => '!',
            How::Listen(..) => '?',
        };
        format!("{}{sign}{}", rule.from, rule.to)
    };
    rules.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// RFC 3264 §6, §8, case by case.
#[test]
fn what_both_have_passes_and_the_rest_is_made_over() {
    for Case { what, ours, offer: offered, told, answer: answered, back, rules } in CASES {
        let mut there = media(offered);
        let made = offer(&mut there, Policy { codecs: ours, keys: false }, &[]);
        assert_eq!(list(&there), *told, "{what}: the offer");
        let mut here = media(answered);
        match answer(&mut here, &made) {
            Ok(agreed) => {
                assert_eq!(list(&here), *back, "{what}: the answer");
                let got = agreed.rules.map_or(["".into(), "".into()], |rules| rules.map(|rules| text(&rules)));
                assert_eq!(got, *rules, "{what}: the rules");
            }
            Err(FormatError::NothingInCommon) => assert!(back.is_empty(), "{what}"),
        }
        assert!(here.attributes.iter().any(|attribute| attribute.attribute == "ptime"), "{what}");

        // As a session has it.
        let (mut there, mut here) = (media(offered), media(answered));
        let offered = Formats::default().offer(0, &mut there, Policy { codecs: ours, keys: false });
        assert_eq!(offered.is_needed(), offered.told[1] != offered.theirs[0], "{what}");
        assert!(offered.rules(0).pass() && offered.rules(1).pass(), "{what}");
        let Ok(agreed) = offered.answer(1, &mut here) else {
            assert!(back.is_empty(), "{what}");
            continue;
        };
        let is_its_business = !back.is_empty();
        assert!(!is_its_business || list(&here) == *back, "{what}");
        let got = [0, 1].map(|side| text(&agreed.rules(side).rules));
        for (got, rules) in got.iter().zip(rules) {
            // Those that change nothing aren't there; what it was told is known besides what it has said.
            let changes = |rule: &str| rule.split_once('>').is_none_or(|(from, to)| from != to);
            let wanted = Some(rules).filter(|rules| rules.split(' ').any(|rule| !rule.is_empty() && changes(rule)));
            assert!(got.starts_with(*wanted.unwrap_or(&"")) && got.is_empty() == wanted.is_none(), "{what}: {got}");
        }
        assert_eq!(agreed.is_needed(), got.iter().any(|rules| !rules.is_empty()), "{what}");
    }
}

/// Of formats that nobody names each is its own.
#[test]
fn a_format_without_a_name_is_its_number() {
    let [five, six] = ["5", "6"].map(|number| read(&media(&[number]), &[]));
    assert!(five[0].is_like(&five[0]) && !five[0].is_like(&six[0]));
}

/// RFC 3264 §6.1: the answerer sends by the offer's numbers, and some do by their own.
#[test]
fn who_answers_by_other_numbers_is_understood_by_both() {
    let mut there = media(&["0 PCMU/8000"]);
    let formats = Formats::default().offer(0, &mut there, ONLY_OPUS);
    assert_eq!(list(&there), ["0 PCMU/8000", "96 opus/48000/2"]);
    let agreed = formats.answer(1, &mut media(&["107 opus/48000/2"])).unwrap();
    assert_eq!(["0~107", "107~0 0>0 96~0"], [0, 1].map(|side| text(&agreed.rules(side).rules)).each_ref().map(String::as_str));
}

/// RFC 3264 §8.3.2: the same number all the time, although another has come to be free.
#[test]
fn a_number_stays_a_formats() {
    let mut first = media(&["0 PCMU/8000", "96 speex/8000"]);
    let given = offer(&mut first, ONLY_OPUS, &[]).told;
    let mut again = media(&["0 PCMU/8000"]);
    offer(&mut again, ONLY_OPUS, &given);
    assert_eq!(list(&again), ["0 PCMU/8000", "97 opus/48000/2"]);
    // In a session, whatever was answered and offered meanwhile.
    let mut formats = Formats::default();
    for (mut offered, told) in [
        (media(&["0 PCMU/8000", "96 speex/8000"]), "97 opus/48000/2"),
        (media(&["0 PCMU/8000", "98 opus/48000/2"]), "98 opus/48000/2"),
        (media(&["0 PCMU/8000"]), "97 opus/48000/2"),
    ] {
        formats = formats.offer(0, &mut offered, ONLY_OPUS);
        assert!(list(&offered).contains(&told.to_owned()), "{:?}", list(&offered));
        formats = formats.answer(1, &mut media(&["0 PCMU/8000"])).unwrap();
        formats = formats.offer(1, &mut media(&["0 PCMU/8000"]), ONLY_OPUS);
        formats = formats.answer(0, &mut media(&["0 PCMU/8000"])).unwrap();
    }
}

/// RFC 7587 §7: what a phone says of its receiver is passed on where the format passes, and what we say where we receive.
#[test]
fn parameters_are_those_of_who_receives() {
    let mut there = media(&["0 PCMU/8000", "111 opus/48000/2 stereo=1"]);
    let made = offer(&mut there, Policy::default(), &[]);
    let mut here = media(&["96 opus/48000/2 maxplaybackrate=8000", "9 G722/8000"]);
    here.attributes.push(Attribute { attribute: "rtcp-fb".into(), value: Some("96 transport-cc".into()) });
    answer(&mut here, &made).unwrap();
    let said: Vec<_> = here.attributes.iter().map(|a| format!("{}:{}", a.attribute, a.value.as_deref().unwrap_or(""))).collect();
    assert_eq!(said, ["rtpmap:111 opus/48000/2", "fmtp:111 maxplaybackrate=8000", "rtcp-fb:111 transport-cc", "ptime:20"]);
    let mut there = media(&["111 opus/48000/2 stereo=1"]);
    let made = offer(&mut there, Policy { codecs: ALL, keys: false }, &[]);
    let mut here = media(&["0 PCMU/8000"]);
    answer(&mut here, &made).unwrap();
    let parameters = read(&here, &[])[0].parameters.clone();
    assert_eq!(parameters.as_deref(), Some("useinbandfec=1;maxplaybackrate=16000"));
}

/// Offer, what is told, answer, what is told back, the rules, and by what keys in sound go.
type KeyCase<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str], [&'a str; 2], [Option<(u8, u32)>; 2]);

/// RFC 4733: who has events is told of them though the other hasn't.
#[test]
fn keys_are_made_over_where_one_side_has_no_events() {
    let cases: [KeyCase<'_>; 6] = [
        // Both have them.
        (
            &["0 PCMU/8000", EVENTS],
            &["0 PCMU/8000", EVENTS],
            &["0 PCMU/8000", EVENTS],
            &["0 PCMU/8000", EVENTS],
            ["", ""],
            [None; 2],
        ),
        // The answerer hasn't.
        (
            &["0 PCMU/8000", EVENTS],
            &["0 PCMU/8000", EVENTS],
            &["0 PCMU/8000"],
            &["0 PCMU/8000", EVENTS],
            ["0>0 101!0", "0?0"],
            [None, Some((101, 8000))],
        ),
        // The offerer hasn't.
        (
            &["8 PCMA/8000"],
            &["8 PCMA/8000", "96 telephone-event/8000"],
            &["8 PCMA/8000", "96 telephone-event/8000"],
            &["8 PCMA/8000"],
            ["8?8", "8>8 96!8"],
            [Some((96, 8000)), None],
        ),
        // Nobody has.
        (&["0 PCMU/8000"], &["0 PCMU/8000", "96 telephone-event/8000"], &["0 PCMU/8000"], &["0 PCMU/8000"], ["", ""], [None; 2]),
        // Tones don't go by G.722.
        (&["9 G722/8000", EVENTS], &["9 G722/8000", EVENTS], &["9 G722/8000"], &["9 G722/8000"], ["", ""], [None; 2]),
        // Not even from where they could be made.
        (
            &["9 G722/8000"],
            &["9 G722/8000", "96 telephone-event/8000"],
            &["9 G722/8000", "96 telephone-event/8000"],
            &["9 G722/8000"],
            ["", ""],
            [None; 2],
        ),
    ];
    for (offered, told, answered, back, rules, events) in cases {
        let mut there = media(offered);
        let made = offer(&mut there, Policy { codecs: NONE, keys: true }, &[]);
        assert_eq!(list(&there), told);
        let mut here = media(answered);
        let agreed = answer(&mut here, &made).unwrap();
        assert_eq!(list(&here), back, "{offered:?} {answered:?}");
        assert_eq!(
            agreed.rules.map_or(["".into(), "".into()], |rules| rules.map(|rules| text(&rules))),
            rules,
            "{offered:?} {answered:?}"
        );
        assert_eq!(agreed.events, events, "{offered:?} {answered:?}");
    }
    // Where sound is coded anew it is listened to anyway.
    let mut there = media(&["111 opus/48000/2", "126 telephone-event/8000"]);
    let made = offer(&mut there, Policy { codecs: ALL, keys: true }, &[]);
    let agreed = answer(&mut media(&["0 PCMU/8000"]), &made).unwrap();
    assert_eq!(agreed.rules.unwrap().map(|rules| text(&rules)), ["111~0 126!0", "0~111"]);
    assert_eq!(agreed.events, [None, Some((126, 8000))]);
}

/// What has the same name and other parameters is told apart by its number.
#[test]
fn formats_of_one_name_keep_their_numbers() {
    let both = ["96 AMR/8000 octet-align=1", "97 AMR/8000", "0 PCMU/8000"];
    let formats = Formats::default().offer(0, &mut media(&both), Policy { codecs: ALL, keys: true });
    let mut here = media(&both);
    let agreed = formats.answer(1, &mut here).unwrap();
    assert!(agreed.rules(0).pass() && agreed.rules(1).pass(), "{:?}", agreed.rules(0));
    assert_eq!(list(&here), ["96 AMR/8000", "97 AMR/8000", "0 PCMU/8000"]);
}
