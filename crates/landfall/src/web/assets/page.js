// Replaces parts of a page by newer ones that the server rendered. Without this script everything works, but
// needs a click.
"use strict";

document.documentElement.classList.add("scripted");

// Returns the width for charts, in steps, so that a small change of the window changes nothing.
function width() {
    const main = document.getElementById("main");
    return Math.max(320, Math.round(main.clientWidth / 40) * 40);
}

// Replaces the elements that have the same ids. The element that has the focus keeps it.
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

// The address that landfall serve printed has the token after the #. Browsers do not send that part.
const login = document.getElementById("login");
if (login && location.hash.length > 1) {
    login.elements.token.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
    login.submit();
}

// Settings: each input asks the planner what they imply, one question at a time, the latest settings last.
// Once the input stops, the migration is simulated.
const settings = document.getElementById("settings");
if (settings) {
    const SIMULATE_AFTER_MS = 350;
    let asking = false, askAgain = false, simulateTimer = 0, simulation = null;

    async function ask(grade, since, signal) {
        const query = new URLSearchParams(new FormData(settings));
        query.set("grade", grade);
        query.set("width", width());
        const answer = await fetch(`${settings.dataset.implied}?${query}`, { signal });
        if (answer.status === 401) location.assign("/login");
        if (!answer.ok) throw new Error(await problemText(answer));
        replace(await answer.text());
        markInvalidFields();
        if (since) measurePaint(since);
    }

    // Returns what a refusal says: the problem on its page, or its plain text.
    async function problemText(answer) {
        const text = await answer.text();
        const page = new DOMParser().parseFromString(text, "text/html");
        return page.querySelector(".problem")?.textContent ?? page.body.textContent;
    }

    // Measures the time from the input to the paint; read it by performance.getEntriesByName.
    function measurePaint(since) {
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => performance.measure("input to paint", { start: since });
            channel.port2.postMessage(null);
        });
    }

    async function askPlanner(since) {
        if (asking) { askAgain = true; return; }
        asking = true;
        simulation?.abort();
        try { await ask("planned", since); } catch (error) { announce(error.message); }
        asking = false;
        if (askAgain) { askAgain = false; askPlanner(performance.now()); }
    }

    async function askSimulation() {
        simulation = new AbortController();
        try {
            await ask("simulated", 0, simulation.signal);
            const implied = document.getElementById("implied");
            announce(implied.dataset.summary);
        } catch (error) {
            if (error.name !== "AbortError") announce(error.message);
        }
    }

    function changed(since) {
        const dial = document.getElementById("aggression");
        document.getElementById("dial-value").value = Number(dial.value).toFixed(2);
        askPlanner(since);
        clearTimeout(simulateTimer);
        simulateTimer = setTimeout(askSimulation, SIMULATE_AFTER_MS);
    }

    function markInvalidFields() {
        for (const field of settings.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
        for (const wrong of document.querySelectorAll("#wrong [data-field]")) {
            document.getElementById(wrong.dataset.field)?.setAttribute("aria-invalid", "true");
        }
    }

    settings.addEventListener("input", (event) => {
        if (!event.target.name.startsWith("destination")) changed(event.timeStamp);
    });

    // A remedy sets its field. The button that only shows what is implied does so without leaving the page.
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

    askSimulation();
}

// Tells screen readers.
function announce(what) {
    const said = document.getElementById("said");
    if (said) said.textContent = what;
}

// A form that takes a while says so, and is not sent twice.
document.addEventListener("submit", (event) => {
    const busy = event.target.dataset.busy;
    if (!busy || event.defaultPrevented) return;
    const button = event.submitter ?? event.target.querySelector("button");
    button.textContent = busy;
    setTimeout(() => { button.disabled = true; }, 0);
});

// A running migration. The browser reconnects by itself and sends the id of the last event it saw.
const live = document.getElementById("live");
if (live?.dataset.events) {
    const events = new EventSource(`${live.dataset.events}?width=${width()}`);
    let state = document.getElementById("state").textContent;
    events.addEventListener("parts", (event) => {
        replace(event.data);
        const now = document.getElementById("state").textContent;
        if (now !== state) announce(`The migration: ${now}`);
        state = now;
    });
    events.addEventListener("over", () => { events.close(); location.reload(); });
    events.addEventListener("trouble", (event) => { events.close(); announce(event.data); });
}

// Updates how long ago something was.
setInterval(() => {
    for (const span of document.querySelectorAll("[data-since]")) {
        const seconds = Math.max(0, Math.round(Date.now() / 1000 - Number(span.dataset.since)));
        span.textContent = seconds < 120 ? `${seconds} s ago` : `${Math.floor(seconds / 60)} min ago`;
    }
}, 1000);
