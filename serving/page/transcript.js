// Copyright 2026 The vita-audio authors.
// SPDX-License-Identifier: Apache-2.0
//
// The conversation as text. An answer is written ahead of its sound, so its words wait in a lighter colour until they
// are heard; what was never heard is struck through, and the model does not remember it either.

const NEAR_END = 40; // pixels: less than a message
const PACE = 65; // ms a character of speech takes, as long as the length of the whole is not known

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

export class Transcript {
  // `announcer` is a live region: it gets whole sentences, because single words would be read in crumbs.
  constructor(log, announcer) {
    this.log = log;
    this.announcer = announcer;
    this.isFollowing = true; // who has scrolled up to read is left there
    log.addEventListener("scroll", () => {
      this.isFollowing = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
    });
    const follow = () => this.isFollowing && log.scrollTo(0, log.scrollHeight);
    new MutationObserver(follow).observe(log, { childList: true, subtree: true, characterData: true });
    new ResizeObserver(follow).observe(log);
  }

  add(node) {
    document.getElementById("welcome")?.remove();
    this.log.append(node);
  }

  divider(text) {
    // there is nothing to be divided from before the first message
    if (this.log.querySelector(".message")) this.add(element("p", "divider", text));
  }

  message(side, who) {
    const node = element("article", `message ${side}`);
    node.append(element("h3", "", who), element("p", "text"));
    this.add(node);
    return node;
  }

  userMessage(text = null) {
    return new UserMessage(this.message("user", "You"), text, this);
  }

  answer() {
    return new AnswerMessage(this.message("answer", "Answer"), this);
  }

  announce(text) {
    this.announcer.textContent = text;
  }
}

class UserMessage {
  constructor(node, text, transcript) {
    this.text = node.querySelector(".text");
    this.transcript = transcript;
    this.isPending = text === null;
    this.text.classList.toggle("pending", this.isPending);
    this.text.textContent = text ?? "…";
  }

  append(text) {
    if (this.isPending) this.text.textContent = "";
    this.isPending = false;
    this.text.classList.remove("pending");
    this.text.textContent += text;
  }

  set(text) {
    this.isPending = true;
    this.append(text.trim() || "(nothing was understood)");
    this.transcript.announce(`You: ${text}`);
  }
}

class AnswerMessage {
  constructor(node, transcript) {
    this.node = node;
    this.text = node.querySelector(".text");
    this.transcript = transcript;
    this.isAnnounced = false;
    this.parts = []; // {span, start, place}: not before `start` ms of speech, after `place` characters
    this.pace = PACE;
  }

  // `milliseconds` of the answer's speech were there when this text came.
  append(text, milliseconds) {
    const span = element("span", "unspoken", text);
    this.parts.push({ span, start: milliseconds, place: this.text.textContent.length });
    this.text.append(span);
  }

  // The text is all there, and its speech is so long.
  setLength(milliseconds) {
    this.pace = milliseconds / Math.max(1, this.text.textContent.length);
  }

  reveal(milliseconds) {
    for (const { span, start, place } of this.parts) {
      if (Math.max(start, place * this.pace) <= milliseconds) span.classList.remove("unspoken");
    }
  }

  // One plain line below the text.
  times(text) {
    const line = this.node.querySelector(".times") ?? this.node.appendChild(element("p", "times"));
    line.textContent = text;
  }

  finish(wasInterrupted) {
    this.node.classList.toggle("interrupted", wasInterrupted);
    if (!wasInterrupted) this.reveal(Infinity);
    if (this.isAnnounced) return;
    this.isAnnounced = true;
    const heard = [...this.text.querySelectorAll("span:not(.unspoken)")].map((span) => span.textContent).join("");
    this.transcript.announce(`Answer${wasInterrupted ? ", interrupted" : ""}: ${heard}`);
  }
}
