// The phone in the page: does what /next says, and tells /event what happens.
"use strict";
let told = Promise.resolve();
function tell(what, more = "") {
  // One after the other, as it happened.
  told = told.then(() => fetch("/event", { method: "POST", body: `${what} ${more}`.trim() })).catch(() => {});
}

// A call's media is not what these tests are about: one end of nothing, which describes itself as SIP's plainest phone.
class Silence extends EventTarget {
  iceGatheringState = "complete";
  iceConnectionState = "connected";
  connectionState = "connected";
  signalingState = "stable";
  localDescription = null;
  remoteDescription = null;

  addTrack() {}
  addStream() {}
  getSenders() { return []; }
  getReceivers() { return []; }
  getTransceivers() { return []; }
  close() { this.signalingState = "closed"; }

  async createOffer() { return { type: "offer", sdp: this.describe() }; }
  async createAnswer() { return { type: "answer", sdp: this.describe() }; }
  async setLocalDescription(description) {
    this.localDescription = description;
    this.signalingState = description.type === "offer" ? "have-local-offer" : "stable";
  }
  async setRemoteDescription(description) {
    this.remoteDescription = description;
    this.signalingState = description.type === "offer" ? "have-remote-offer" : "stable";
  }

  describe() {
    const lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0", "m=audio 9 RTP/AVP 0", "a=sendrecv"];
    return `${lines.join("\r\n")}\r\n`;
  }
}
window.RTCPeerConnection = Silence;

const media = { mediaConstraints: { audio: true, video: false }, pcConfig: { iceServers: [] } };
let session = null;

function take(next, incoming) {
  session = next;
  if (incoming) tell("incoming", next.remote_identity.uri.user);
  next.on("progress", () => tell("progress"));
  next.on("confirmed", () => tell("established"));
  next.on("ended", (event) => tell("ended", event.cause));
  next.on("failed", (event) => tell("failed", event.cause));
}

async function main() {
  const { server, user, domain, password } = await (await fetch("/config")).json();
  const JsSIP = require("jssip");
  const phone = new JsSIP.UA({
    sockets: [new JsSIP.WebSocketInterface(server)],
    uri: `sip:${user}@${domain}`,
    password,
    register_expires: 600,
    connection_recovery_min_interval: 1,
    connection_recovery_max_interval: 2,
  });
  phone.on("connected", () => tell("connected"));
  phone.on("disconnected", () => tell("disconnected"));
  phone.on("registered", () => tell("registered"));
  phone.on("registrationFailed", (event) => tell("not_registered", event.cause));
  phone.on("newRTCSession", (event) => take(event.session, event.originator === "remote"));
  phone.start();
  for (;;) {
    const [verb, argument] = (await (await fetch("/next")).text()).split(" ");
    if (verb === "dial") phone.call(`sip:${argument}@${domain}`, media);
    else if (verb === "answer") session.answer(media);
    else if (verb === "hangup") session.terminate();
    else if (verb === "hold") session.hold();
    else if (verb === "resume") session.unhold();
  }
}
main().catch((error) => tell("error", error));
window.addEventListener("error", (event) => tell("error", event.message));
