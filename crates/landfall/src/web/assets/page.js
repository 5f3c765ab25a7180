// Replaces parts of a page by newer ones that the server has rendered. Everything works without it, only
// not at once.
"use strict";

document.documentElement.classList.add("scripted");

// How wide pictures shall be: steps, so that a little more or less is the same picture.
function width() {
    const main = document.getElementById("main");
    return Math.max(320, Math.round(main.clientWidth / 40) * 40);
}

// Puts parts in the place of those with the same id. What had the focus keeps it.
function replace(html) {
    const parts = document.createElement("template");
    parts.innerHTML = html;
    const focused = document.activeElement;
    for (const part of [...parts.content.children]) {
        const old = document.getElementById(part.id);
        if (!old) continue;
        for (const details of part.querySelectorAll("details[id]")) {
            details.open = document.getElementById(details.id)?.open ?? details.open;
        }
        const held = old.contains(focused) && focused.dataset.key;
        old.replaceWith(part);
        if (held) part.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus();
    }
}

// The address that the operator was given holds the token behind its #, which no server ever sees.
const login = document.getElementById("login");
if (login && location.hash.length > 1) {
    login.elements.token.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
    login.submit();
}

// Settings: what they imply follows every input. One question is under way at a time; the last one
// counts. Once the settings rest, the migration is simulated.
const settings = document.getElementById("settings");
if (settings) {
    const REST = 350;
    let asking = false, again = false, resting = 0, stop = null;

    async function ask(grade, since, signal) {
        const query = new URLSearchParams(new FormData(settings));
        query.set("grade", grade);
        query.set("width", width());
        const answer = await fetch(`${settings.dataset.implied}?${query}`, { signal });
        if (answer.status === 401) location.assign("/login");
        if (!answer.ok) throw new Error(await answer.text());
        replace(await answer.text());
        invalid();
        if (since) painted(since);
    }

    // From the input to the picture on the screen, for who wants to know: performance.getEntriesByName.
    function painted(since) {
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => performance.measure("input to paint", { start: since });
            channel.port2.postMessage(null);
        });
    }

    async function quickly(since) {
        if (asking) { again = true; return; }
        asking = true;
        stop?.abort();
        try { await ask("planned", since); } catch (error) { say(error.message); }
        asking = false;
        if (again) { again = false; quickly(performance.now()); }
    }

    async function thoroughly() {
        stop = new AbortController();
        try {
            await ask("simulated", 0, stop.signal);
            const implied = document.getElementById("implied");
            say(implied.dataset.summary);
        } catch (error) {
            if (error.name !== "AbortError") say(error.message);
        }
    }

    function changed(since) {
        const dial = document.getElementById("aggression");
        document.getElementById("dial-value").value = Number(dial.value).toFixed(2);
        quickly(since);
        clearTimeout(resting);
        resting = setTimeout(thoroughly, REST);
    }

    function invalid() {
        for (const field of settings.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
        for (const wrong of document.querySelectorAll("#wrong [data-field]")) {
            document.getElementById(wrong.dataset.field)?.setAttribute("aria-invalid", "true");
        }
    }

    settings.addEventListener("input", (event) => {
        if (!event.target.name.startsWith("destination")) changed(event.timeStamp);
    });

    // A remedy sets its field; the button that only shows does so without leaving the page.
    settings.addEventListener("submit", (event) => {
        const button = event.submitter;
        if (button?.name === "apply") {
            event.preventDefault();
            const [name, value] = [button.value.slice(0, button.value.indexOf("=")), button.value.slice(button.value.indexOf("=") + 1)];
            const fields = [...settings.elements].filter((field) => field.name === name);
            const values = fields.length > 1 ? value.split(",") : [value];
            fields.forEach((field, place) => { field.value = values[place] ?? ""; });
            fields[0]?.focus();
            changed(event.timeStamp);
        } else if (button?.classList.contains("noscript")) {
            event.preventDefault();
            changed(event.timeStamp);
        }
    });

    thoroughly();
}

function say(what) {
    const said = document.getElementById("said");
    if (said) said.textContent = what;
}

// What takes a while says so, and is not asked for twice.
document.addEventListener("submit", (event) => {
    const busy = event.target.dataset.busy;
    if (!busy || event.defaultPrevented) return;
    const button = event.submitter ?? event.target.querySelector("button");
    button.textContent = busy;
    setTimeout(() => { button.disabled = true; }, 0);
});

// A migration as it goes. The browser reconnects by itself, and says what it saw last.
const live = document.getElementById("live");
if (live?.dataset.events) {
    const events = new EventSource(`${live.dataset.events}?width=${width()}`);
    let state = document.getElementById("state").textContent;
    events.addEventListener("parts", (event) => {
        replace(event.data);
        const now = document.getElementById("state").textContent;
        if (now !== state) say(`The migration: ${now}`);
        state = now;
    });
    events.addEventListener("over", () => { events.close(); location.reload(); });
    events.addEventListener("trouble", (event) => { events.close(); say(event.data); });
}

// How long ago something was.
setInterval(() => {
    for (const span of document.querySelectorAll("[data-since]")) {
        const seconds = Math.max(0, Math.round(Date.now() / 1000 - Number(span.dataset.since)));
        span.textContent = seconds < 120 ? `${seconds} s ago` : `${Math.floor(seconds / 60)} min ago`;
    }
}, 1000);
