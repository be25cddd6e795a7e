//! Calls that are made over are on threads of their own, so that nobody else's packets wait for a codec. Layer: shell.
//!
//! ```text
//!  actors ──▶ home thread ──▶ commands of calls that have moved ──▶ codec thread
//!                         └─▶ sockets of one that is to move, once ─┘
//! ```
//!
//! A call's home thread stays where actors speak to it. Datagrams wait in the sockets meanwhile, and nothing is lost. A call that has moved stays there.

use std::sync::atomic::Ordering;

use super::{Command, End, Session, Thread, event};
use crate::ids::CallId;

/// A call on its way to another thread.
pub(in super::super) struct Moved {
    call: CallId,
    session: Session,
    /// By the numbers that the session has for them.
    ends: Vec<Option<End>>,
}

impl Thread {
    /// Passes a command on if its call is at the codec thread, or is to be. Gives back what is to be done here.
    pub(super) fn forward(&mut self, command: Command) -> Option<Command> {
        let Some(coder) = self.coder.clone() else { return Some(command) };
        let (call, moves) = match &command {
            Command::Apply { call, streams, .. } => {
                (*call, streams.iter().flatten().any(|want| !want.plan.rules.rules.is_empty() || want.plan.music.is_some()))
            }
            Command::Press { call, .. } => (*call, self.calls.contains_key(call)),
            Command::Close { call } | Command::Send { call, .. } => (*call, false),
            Command::TakeIn(_) | Command::Settle { .. } => return Some(command),
        };
        if moves
            && self.guests.insert(call)
            && let Some(moved) = self.give_out(call)
        {
            coder.tell(Command::TakeIn(moved));
        }
        let is_guest = match &command {
            Command::Close { .. } => self.guests.remove(&call),
            Command::Apply { .. }
            | Command::Send { .. }
            | Command::Press { .. }
            | Command::TakeIn(_)
            | Command::Settle { .. } => self.guests.contains(&call),
        };
        if !is_guest {
            return Some(command);
        }
        coder.tell(command);
        None
    }

    fn give_out(&mut self, call: CallId) -> Option<Box<Moved>> {
        let mut session = self.calls.remove(&call)?;
        let mut ends = Vec::new();
        for at in session.legs.iter_mut().flatten().flatten().flatten() {
            let mut end = self.ends[*at].take();
            self.free.push(*at);
            *at = ends.len();
            if let Some(end) = &mut end {
                end.partner = None;
                // Closing would have done it.
                for socket in end.wire.iter().flat_map(|wire| [Some(wire.socket()), wire.twin()]).flatten() {
                    let _ = self.epoll.delete(socket);
                }
            }
            ends.push(end);
        }
        Some(Box::new(Moved { call, session, ends }))
    }

    pub(super) fn take_in(&mut self, Moved { call, mut session, mut ends }: Moved) {
        for pair in session.legs.iter_mut().flatten().flatten() {
            for at in pair.iter_mut() {
                let Some(end) = ends.get_mut(*at).and_then(Option::take) else { continue };
                *at = self.place(end);
                let watched = self.ends[*at].as_ref().and_then(|end| end.wire.as_ref()).map(|wire| {
                    self.epoll.add(wire.socket(), event(*at, false))?;
                    wire.twin().map_or(Ok(()), |twin| self.epoll.add(twin, event(*at, true)))
                });
                let Some(end) = &mut self.ends[*at] else { continue };
                if let Some(Err(_)) = watched {
                    // It is bound anew, as one that never was.
                    let sockets = end.wire.take().map_or(0, |wire| wire.sockets());
                    self.open.ports.fetch_sub(1, Ordering::Relaxed);
                    self.open.sockets.fetch_sub(sockets, Ordering::Relaxed);
                }
                if end.wire.is_none() {
                    self.unbound[usize::from(end.rtcp)].push_back(*at);
                }
            }
            for at in *pair {
                self.ends[at].iter_mut().for_each(|end| end.pair = *pair);
            }
        }
        self.calls.insert(call, session);
        self.join_all(call);
    }
}
