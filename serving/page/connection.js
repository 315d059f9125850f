// Copyright 2026 The vita-audio authors.
// SPDX-License-Identifier: Apache-2.0
//
// The WebSocket to /v1/realtime, which comes back by itself after it was lost.

const FIRST_WAIT = 500; // ms before the first try to reconnect; doubled with each one
const LONGEST_WAIT = 15000; // ms
const KEY = "vita-audio-api-key"; // in the storage of this tab, which ends with it
const SENDABLE = /^[\w!#$%&'*+.^`|~-]+$/; // keys that browsers can send to a WebSocket

// States: "connecting", "connected", "waiting" (with the seconds to the next try), "key" (a key is needed),
// "closed" (idle for too long, for instance: the user says when to go on).
export class Connection {
  constructor({ onState, onEvent }) {
    this.onState = onState;
    this.onEvent = onEvent;
    this.failures = 0;
    // the browser knows when the network is back sooner than the clock
    addEventListener("online", () => this.state === "waiting" && this.open());
  }

  // A new session with an empty history, in the place of the one that there may be.
  async open() {
    clearTimeout(this.timer);
    if (this.socket) this.socket.onclose = this.socket.onmessage = null;
    this.socket?.close(1000);
    this.socket = null;
    // another call may come before this one has its answer
    const attempt = (this.attempt = {});
    this.setState("connecting");
    const key = sessionStorage.getItem(KEY);
    if (key !== null && !SENDABLE.test(key)) return this.setState("key", { wasRefused: true });
    // a browser does not tell a page why a WebSocket was refused, so the key is tried by a request first
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const models = await fetch("v1/models", { headers, cache: "no-store" }).catch(() => null);
    if (attempt !== this.attempt) return;
    if (models?.status === 401 || models?.status === 403) return this.setState("key", { wasRefused: key !== null });
    if (!models?.ok) return this.retry(models ? `The server answered with ${models.status}.` : "The server cannot be reached.");
    const url = new URL("v1/realtime", location.href.replace(/^http/, "ws"));
    url.hash = url.search = "";
    // what OpenAI's clients in browsers send, because these cannot set headers
    this.socket = new WebSocket(url, ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])]);
    let reason = null;
    let wasOpen = false;
    this.socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "session.created") {
        this.failures = 0;
        wasOpen = true;
        this.setState("connected");
      }
      if (event.type === "error") reason = event.error.message;
      this.onEvent(event);
    };
    this.socket.onclose = (event) => {
      reason = event.reason || (event.code === 1000 ? reason : null) || (wasOpen ? "The connection was lost." : reason);
      if (event.code === 1000) this.setState("closed", { reason });
      else this.retry(reason ?? "The server takes no more conversations now; it may be full.");
    };
  }

  retry(reason) {
    // spread by up to a quarter, so that all pages do not come back to a restarted server at once
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures++) * (1 + Math.random() / 4);
    this.timer = setTimeout(() => this.open(), wait);
    this.setState("waiting", { reason, wait });
  }

  setState(state, details = {}) {
    this.state = state;
    this.onState(state, details);
  }

  useKey(key) {
    sessionStorage.setItem(KEY, key.trim());
    this.open();
  }

  send(type, fields = {}) {
    if (this.state === "connected") this.socket.send(JSON.stringify({ type, ...fields }));
  }
}
