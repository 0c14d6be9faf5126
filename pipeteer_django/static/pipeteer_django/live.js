/* Keeps the parts of a page that have `data-pipeteer-live` up to date.

   A WebSocket says that something changed, never what: then the page is fetched again, as this user, and what differs
   is changed in place, so that focus, scroll position, selected text and open details stay. Without a socket it looks
   every 10 seconds. Between two fetches is a second at least, or as many as `data-pipeteer-least` says. While somebody
   chooses or types in a part, that part stays as it is; with `data-pipeteer-still` also while the pointer is in it, so
   that no button moves away under a click. */
"use strict";
{
    const SECOND = 1000;
    const POLL = 10 * SECOND;       // without a socket
    const SLOW = 30 * SECOND;       // with one: what it says are hints, and one may be lost
    const LONGEST = 300 * SECOND;   // between two tries of anything that fails
    const PATIENCE = 30 * SECOND;   // for an answer
    const OVER = 4000;              // how a socket closes when there is nothing more to come
    const CONTROLS = "input, select, textarea";

    const status = document.getElementById("pipeteer-live");
    let regions = [...document.querySelectorAll("[data-pipeteer-live][id]")];
    let sockets = [];
    let timer = null;
    let last = Date.now();
    let busy = false;
    let wanted = false;
    let waits = false;              // a part was left as it was, because somebody is at it
    let stopped = false;
    let failures = 0;

    // When to look

    function plan() {
        clearTimeout(timer);
        if (stopped || busy || document.hidden || !regions.length) { return; }
        const usual = sockets.every(({open}) => open) && sockets.length ? SLOW : POLL;
        const pause = failures ? Math.min(LONGEST, POLL * 2 ** (failures - 1)) : wanted ? least() : usual;
        timer = setTimeout(look, Math.max(0, last + pause - Date.now()));
    }

    function least() { return SECOND * Math.max(...regions.map(({dataset}) => Number(dataset.pipeteerLeast) || 1)); }

    function want() {
        wanted = true;
        plan();
    }

    async function look() {
        busy = true;
        wanted = waits = false;
        last = Date.now();
        try {
            const urls = new Set(regions.map(urlOf));
            for (const url of urls) { await update(url); }
            failures = 0;
        } catch (error) {
            failures += 1;
        }
        busy = false;
        say();
        plan();
    }

    // Fetching

    function urlOf(region) { return region.dataset.pipeteerUrl || location.href; }

    async function update(url) {
        const mine = regions.filter(region => urlOf(region) === url);
        const free = mine.filter(region => !held(region));
        waits ||= free.length < mine.length;
        if (!free.length) { return; }
        const answer = await fetch(url, {
            cache: "no-store", credentials: "same-origin", redirect: "manual",
            headers: {"X-Requested-With": "pipeteer"}, signal: AbortSignal.timeout(PATIENCE),
        });
        if (answer.type === "opaqueredirect" || (answer.status >= 400 && answer.status < 500 && answer.status !== 429)) {
            stop();  // logged out, not allowed any more, or gone
            return;
        }
        if (!answer.ok) { throw new Error(answer.status); }
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const region of free) { swap(region, page.getElementById(region.id)); }
    }

    function swap(region, fresh) {
        if (held(region)) {
            waits = true;
            return;
        }
        if (fresh) {
            const focused = document.activeElement;
            morph(region, fresh);
            if (focused !== document.activeElement && focused.isConnected) { focused.focus({preventScroll: true}); }
            region.dispatchEvent(new CustomEvent("pipeteer:swapped", {bubbles: true}));
        }
        if (!fresh || !("pipeteerLive" in fresh.dataset)) {
            regions = regions.filter(other => other !== region);  // it says that nothing more will happen to it
        }
    }

    function stop() {
        stopped = true;
        for (const source of sockets) { source.socket?.close(); }
    }

    // Who is at it

    function held(region) {
        const active = document.activeElement;
        return region.contains(active) && active.matches(`${CONTROLS}, button, [contenteditable]`)
            || region.querySelector("details[open] form") !== null
            || "pipeteerStill" in region.dataset && region.matches(":hover") && region.querySelector("button") !== null
            || [...region.querySelectorAll(CONTROLS)].some(changed);
    }

    function changed(control) {
        if (control.type === "checkbox" || control.type === "radio") { return control.checked !== control.defaultChecked; }
        if (control.type === "select-multiple") {
            return [...control.options].some(option => option.selected !== option.defaultSelected);
        }
        if (control.type === "select-one") {
            return control.selectedIndex > 0 && !control.options[control.selectedIndex].defaultSelected;
        }
        return control.value !== control.defaultValue;
    }

    for (const event of ["change", "focusout", "toggle", "pointerout"]) {
        document.addEventListener(event, () => waits && setTimeout(want), true);
    }

    // Changing in place

    function key(node) {
        if (node.nodeType !== Node.ELEMENT_NODE) { return ""; }
        if (node.id) { return `#${node.id}`; }
        if (node.nodeName !== "TR") { return node.dataset.key || ""; }
        const named = node.querySelector("input.action-select, a[href]");
        return named ? named.value || named.getAttribute("href") : "";
    }

    function morph(node, fresh) {
        if (node.nodeType !== Node.ELEMENT_NODE) {
            if (node.nodeValue !== fresh.nodeValue) { node.nodeValue = fresh.nodeValue; }
            return;
        }
        if (node.isEqualNode(fresh)) { return; }
        for (const {name} of [...node.attributes]) {
            if (!fresh.hasAttribute(name) && name !== "open") { node.removeAttribute(name); }
        }
        for (const {name, value} of fresh.attributes) {
            if (node.getAttribute(name) !== value && name !== "open") { node.setAttribute(name, value); }
        }
        morphChildren(node, fresh);
        if (node.matches(CONTROLS) && node.type !== "file") {
            node.value = fresh.value;
            node.checked = fresh.checked;
        }
    }

    function morphChildren(node, fresh) {
        const keys = new Set([...fresh.childNodes].map(key));
        const known = new Map();
        for (const child of [...node.children]) {
            const name = key(child);
            if (name && !keys.has(name)) { child.remove(); } else if (name) { known.set(name, child); }
        }
        let next = node.firstChild;
        for (const child of [...fresh.childNodes]) {
            const name = key(child);
            let found = name ? known.get(name) : next && !key(next) ? next : null;
            known.delete(name);
            if (found && found.nodeName !== child.nodeName) { found = null; }
            if (!found) {
                node.insertBefore(document.importNode(child, true), next);
                continue;
            }
            if (found === next) { next = next.nextSibling; } else { node.insertBefore(found, next); }
            morph(found, child);
        }
        while (next) {
            const gone = next;
            next = next.nextSibling;
            gone.remove();
        }
    }

    // Sockets

    function addresses() {
        const own = regions.map(region => region.dataset.pipeteerSocket).filter(Boolean);
        const queues = regions.flatMap(region => region.dataset.pipeteerLive.split(",")).filter(Boolean);
        const admins = status?.dataset.pipeteerSocket;
        if (queues.length && admins) {
            const asked = queues.includes("*") ? ["*"] : [...new Set(queues)].sort();
            own.push(`${admins}?queues=${asked.map(encodeURIComponent).join(",")}`);
        }
        return new Set(own);
    }

    function open(source) {
        if (stopped || source.over || !regions.length) { return; }
        const address = new URL(source.path, location.href);
        address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
        source.socket = new WebSocket(address);
        source.socket.onopen = () => {
            source.open = true;
            source.tries = 0;
            say();
            want();  // something may have changed since the page was made
        };
        source.socket.onmessage = want;
        source.socket.onclose = ({code}) => {
            source.open = source.over = code === OVER;
            if (source.over) { want(); } else {
                setTimeout(open, Math.min(LONGEST, 5 * SECOND * 2 ** source.tries++), source);
            }
            say();
            plan();
        };
    }

    // Saying how it is

    function state() {
        if (stopped) { return "stopped"; }
        if (failures) { return "trying"; }
        if (waits) { return "paused"; }
        return sockets.length && sockets.every(source => source.open) ? "live" : "polling";
    }

    function say() {
        if (!status) { return; }
        const now = state();
        status.hidden = !stopped && (!regions.length || sockets.length > 0 && sockets.every(source => source.over));
        if (status.dataset.state === now) { return; }
        status.dataset.state = now;
        status.textContent = status.dataset[now];
    }

    document.addEventListener("visibilitychange", plan);
    sockets = [...addresses()].map(path => ({path, socket: null, open: false, over: false, tries: 0}));
    sockets.forEach(open);
    plan();
}
