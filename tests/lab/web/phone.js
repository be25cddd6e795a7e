// The phone in the page: does what /next says, and tells /event what happens.
"use strict";
let told = Promise.resolve();
function tell(what, more = "") {
  // One after the other, as it happened.
  told = told.then(() => fetch("/event", { method: "POST", body: `${what} ${more}`.trim() })).catch(() => {});
}

// Where a call's media is not what a test is about: one end of nothing, which describes itself as SIP's plainest phone.
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

// Runs on the thread that renders audio, where no page is slow: how long was it quiet at most?
function meter() {
  // A tenth of what the tone has, and far above what a codec or a concealment leaves of silence.
  const QUIET = 0.02;
  // 10.7 ms at 48 kHz: whole periods of any tone above 100 Hz, more or less.
  const QUANTA = 4;

  class Meter extends AudioWorkletProcessor {
    constructor() {
      super();
      this.forget();
      this.port.onmessage = ({ data }) => {
        if (data === "watch") {
          this.forget();
          this.port.postMessage("watching");
        } else this.port.postMessage(Math.round((1000 * this.longest) / sampleRate));
      };
    }

    forget() {
      this.longest = this.quiet = this.energy = this.frames = this.quanta = 0;
    }

    process([[samples]]) {
      // There is no channel while nothing comes.
      if (samples) for (const sample of samples) this.energy += sample * sample;
      this.frames += samples ? samples.length : 128;
      if (++this.quanta === QUANTA) {
        const silent = Math.sqrt(this.energy / this.frames) < QUIET;
        this.quiet = silent ? this.quiet + this.frames : 0;
        this.longest = Math.max(this.longest, this.quiet);
        this.energy = this.frames = this.quanta = 0;
      }
      return true;
    }
  }
  registerProcessor("meter", Meter);
}

// What a phone with media sends and hears.
class Sound {
  // Analyses in a row that must agree, and the time between two.
  static AGREE = 5;
  static PAUSE_MS = 20;
  // How far the dominant frequency may be off, how loud it must be, and how much louder than all else (dB).
  static OFF = 0.03;
  static LOUD = -50;
  static ABOVE = 15;
  // Bins at each side that a pure tone fills, too: the main lobe of the analyser's Blackman window.
  static LOBE = 4;

  static async of(hz) {
    const context = new AudioContext({ sampleRate: 48000 });
    await context.resume();
    const module = URL.createObjectURL(new Blob([`(${meter})()`], { type: "text/javascript" }));
    await context.audioWorklet.addModule(module);
    return new Sound(context, hz);
  }

  constructor(context, hz) {
    this.context = context;
    const tone = new OscillatorNode(context, { frequency: hz });
    const level = new GainNode(context, { gain: 0.3 });
    this.sent = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
    tone.connect(level).connect(this.sent);
    tone.start();
    // 5.9 Hz a bin.
    this.analyser = new AnalyserNode(context, { fftSize: 8192, smoothingTimeConstant: 0 });
    this.meter = new AudioWorkletNode(context, "meter", { channelCount: 1, channelCountMode: "explicit" });
    this.meter.port.onmessage = ({ data }) => (data === "watching" ? tell("watching") : tell("gap", data));
    // It writes nothing there, but what leads nowhere isn't rendered.
    this.meter.connect(context.destination);
  }

  // A call's own: JsSIP disables the tracks of a call on hold, and they stay so.
  stream() {
    return this.sent.stream.clone();
  }

  // Follows a call's transports, and listens to what comes by them.
  attach(connection) {
    connection.addEventListener("iceconnectionstatechange", () => tell("ice", connection.iceConnectionState));
    const followed = new Set();
    connection.addEventListener("signalingstatechange", () => {
      // There is a transport once there is a description.
      for (const { transport } of connection.getSenders()) {
        if (!transport || followed.has(transport)) continue;
        followed.add(transport);
        transport.addEventListener("statechange", () => tell("dtls", transport.state));
      }
    });
    connection.addEventListener("track", ({ track }) => this.listen(new MediaStream([track])));
  }

  listen(stream) {
    // Chromium decodes nothing for WebAudio alone: an element must play it.
    document.getElementById("far").srcObject = stream;
    if (this.heard) this.heard.disconnect();
    this.heard = new MediaStreamAudioSourceNode(this.context, { mediaStream: stream });
    this.heard.connect(this.analyser);
    this.heard.connect(this.meter);
  }

  // Tells when it hears this tone. What was asked for before is forgotten.
  hear(hz) {
    clearInterval(this.hearing);
    let agreeing = 0;
    this.hearing = setInterval(() => {
      agreeing = Math.abs(this.dominant() - hz) < Sound.OFF * hz ? agreeing + 1 : 0;
      if (agreeing < Sound.AGREE) return;
      clearInterval(this.hearing);
      tell("hears", hz);
    }, Sound.PAUSE_MS);
  }

  // The frequency above all others; 0 where there is none.
  dominant() {
    const levels = new Float32Array(this.analyser.frequencyBinCount);
    this.analyser.getFloatFrequencyData(levels);
    const peak = levels.reduce((best, level, bin) => (level > levels[best] ? bin : best), 0);
    const others = levels.filter((_, bin) => Math.abs(bin - peak) > Sound.LOBE);
    const next = others.reduce((most, level) => Math.max(most, level), -Infinity);
    if (levels[peak] < Sound.LOUD || levels[peak] < next + Sound.ABOVE) return 0;
    return (peak * this.context.sampleRate) / this.analyser.fftSize;
  }
}

// The one codec that is offered and answered; null: all that the browser has.
let codec = null;
for (const method of ["createOffer", "createAnswer"]) {
  const original = RTCPeerConnection.prototype[method];
  RTCPeerConnection.prototype[method] = function (...options) {
    if (codec) {
      const wanted = [`audio/${codec.toLowerCase()}`, "audio/telephone-event"];
      const { codecs } = RTCRtpReceiver.getCapabilities("audio");
      const only = codecs.filter(({ mimeType }) => wanted.includes(mimeType.toLowerCase()));
      for (const transceiver of this.getTransceivers()) transceiver.setCodecPreferences(only);
    }
    return original.apply(this, options);
  };
}

// Null: a phone that is silent.
let sound = null;
let session = null;

function media() {
  const common = { mediaConstraints: { audio: true, video: false }, pcConfig: { iceServers: [] } };
  return sound ? { ...common, mediaStream: sound.stream() } : common;
}

function take(next, incoming) {
  session = next;
  if (incoming) tell("incoming", next.remote_identity.uri.user);
  if (sound) {
    // There is one already where it calls, and none before it answers.
    if (next.connection) sound.attach(next.connection);
    next.on("peerconnection", ({ peerconnection }) => sound.attach(peerconnection));
  }
  next.on("progress", () => tell("progress"));
  next.on("confirmed", () => tell("established"));
  next.on("ended", (event) => tell("ended", event.cause));
  next.on("failed", (event) => tell("failed", event.cause));
}

async function main() {
  const { server, user, domain, password, hz } = await (await fetch("/config")).json();
  if (hz) sound = await Sound.of(hz);
  else window.RTCPeerConnection = Silence;
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
    if (verb === "dial") phone.call(`sip:${argument}@${domain}`, media());
    else if (verb === "answer") session.answer(media());
    else if (verb === "hangup") session.terminate();
    else if (verb === "hold") session.hold();
    else if (verb === "resume") session.unhold();
    else if (verb === "codec") codec = argument;
    else if (verb === "hear") sound.hear(Number(argument));
    else if (verb === "watch" || verb === "report") sound.meter.port.postMessage(verb);
  }
}
main().catch((error) => tell("error", error));
window.addEventListener("error", (event) => tell("error", event.message));
