//! What is measured of the packets that come: what a thread does for it. Layer: shell.

use std::sync::Arc;

use super::{End, Thread};
use crate::clock::Uptime;
use crate::media::core::quality::{Hearing, Meter};
use crate::media::core::rtcp::{self, Said, Sender};
use crate::media::core::srtp::is_rtcp;
use crate::media::relay::{Counters, Event};

impl Thread {
    /// A packet of a phone has come to an end, and goes on from there. What it says of time is made over as its sound is.
    pub(super) fn measure(&mut self, at: usize, packet: &mut [u8], now: Uptime) {
        let Some((rtp, is_report)) = self.ends[at].as_ref().map(|end| (end.pair[0], end.rtcp || is_rtcp(packet))) else { return };
        let Some(end) = self.ends[rtp].as_mut().filter(|end| !end.is_other) else { return };
        if is_report {
            return self.measure_report(rtp, packet, now);
        }
        let is_silent = end.measured().is_some_and(|meter| meter.hear(packet, now));
        if let Some(meter) = &end.meter {
            end.counters.gauge.publish_sound(meter.figures());
        }
        if is_silent {
            end.publish();
            let _ = self.events.try_send(Event::Silent { call: end.call, leg: end.leg, sends: true });
        }
    }

    fn measure_report(&mut self, rtp: usize, packet: &mut [u8], now: Uptime) {
        let Some(end) = self.ends[rtp].as_mut() else { return };
        if let Some(meter) = end.measured() {
            rtcp::read(packet, |said| meter.told(said, now));
            end.publish();
        }
        let partner = end.partner;
        let partner = partner.and_then(|partner| self.ends[partner].as_mut());
        let theirs = partner.and_then(|partner| {
            if let Some(meter) = partner.measured() {
                rtcp::read(packet, |said| {
                    if let Said::Sends(sender) = said {
                        meter.passes(sender, now)
                    }
                });
            }
            // What a phone says of what it hears is by the clock that this was made over to.
            partner.coder.clocks()
        });
        let Some(end) = self.ends[rtp].as_ref() else { return };
        let ours = end.coder.clocks();
        if ours.is_some() || theirs.is_some() {
            let sends = |sender: Sender| end.coder.made_over(sender);
            rtcp::make_over(packet, sends, theirs.map_or((1, 1), |(from, to)| (to, from)));
        }
    }

    /// Looks for phones that say nothing while the other one speaks.
    pub(super) fn look_for_the_missed(&mut self, now: Uptime) {
        for at in 0..self.ends.len() {
            let Some(end) = self.ends[at].as_ref().filter(|end| !end.rtcp && end.hearing.measures) else { continue };
            let speaks = |end: &End| end.meter.as_ref().is_some_and(|meter| meter.speaks(now));
            let other = end.partner.and_then(|partner| self.ends[partner].as_ref());
            let is_missed = end.hearing.misses && !speaks(end) && other.is_some_and(speaks);
            let Some(end) = self.ends[at].as_mut().filter(|end| is_missed || end.meter.is_some()) else { continue };
            if end.measured().is_some_and(|meter| meter.miss(is_missed, now)) {
                let _ = self.events.try_send(Event::Silent { call: end.call, leg: end.leg, sends: false });
            }
            end.publish();
        }
    }
}

impl End {
    /// The meter of an end that is measured: made when it is needed first, since who stands by hears nobody.
    fn measured(&mut self) -> Option<&mut Meter> {
        let hearing = &self.hearing;
        hearing.measures.then(|| {
            &mut **self.meter.get_or_insert_with(|| {
                let mut meter = Box::<Meter>::default();
                meter.set(hearing);
                meter
            })
        })
    }

    /// As an actor wants it. Where others count from now on nothing has been measured yet.
    pub(super) fn set_hearing(&mut self, hearing: Hearing, counters: &Arc<Counters>) {
        self.meter.take_if(|_| !Arc::ptr_eq(&self.counters, counters));
        self.meter.iter_mut().for_each(|meter| meter.set(&hearing));
        self.hearing = hearing;
    }

    fn publish(&self) {
        if let Some(meter) = &self.meter {
            self.counters.gauge.publish(meter.figures());
        }
    }
}
