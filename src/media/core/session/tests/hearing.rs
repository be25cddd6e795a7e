//! What is measured, by what is agreed.

use super::*;
use crate::media::core::quality::Coding;

fn hearing(session: &Session, leg: usize, at: usize) -> Hearing {
    session.plan(leg)[at].as_ref().unwrap().hearing.clone()
}

#[test]
fn the_first_stream_of_sound_is_measured_by_what_is_agreed() {
    let video = "m=video 5000 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n";
    let sound = |port: u16| {
        format!("m=audio {port} RTP/AVP 107 101\r\na=rtpmap:107 opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\n")
    };
    let sdp = |who: u8| {
        format!(
            "v=0\r\no=x 1 1 IN IP4 10.0.0.{who}\r\ns=-\r\nc=IN IP4 10.0.0.{who}\r\nt=0 0\r\n{video}{}{}",
            sound(6000),
            sound(7000)
        )
    };
    let mut session = Session { codecs: [Codec::Opus][..].into(), ..session() };
    describe(&mut session, 0, &sdp(1)).unwrap();
    describe(&mut session, 1, &sdp(2)).unwrap();
    for leg in [0, 1] {
        assert_eq!([0, 1, 2].map(|at| hearing(&session, leg, at).measures), [false, true, false]);
        let formats = hearing(&session, leg, 1).formats;
        assert_eq!(formats[..], [(107, Coding::Opus, 48_000), (101, Coding::Events, 8000)]);
        assert!(!hearing(&session, leg, 1).misses, "nobody has answered");
    }
    session.is_answered = true;
    assert!(hearing(&session, 0, 1).misses);
    session.held[1] = true;
    assert!(!hearing(&session, 0, 1).misses, "on hold");
}

/// Where nobody looks at formats only numbers are known that mean something by themselves.
#[test]
fn without_formats_the_first_stream_is_measured() {
    let mut session = session();
    describe(&mut session, 0, OFFER).unwrap();
    describe(&mut session, 1, ANSWER).unwrap();
    assert_eq!(hearing(&session, 0, 0), Hearing { measures: true, ..Hearing::default() });
}
