/* A list whose rows come and go: the admin's own script (actions.js) knows only the checkboxes that were there when the
   page was loaded. So when rows have changed, what it listens to is made anew, and it is started again as soon as
   somebody is about to use it. */
"use strict";
{
    const region = document.getElementById("pipeteer-results");
    const boxes = () => [...document.querySelectorAll("tr input.action-select")];
    let known = boxes();
    let stale = false;

    function anew(node) {
        const copy = node.cloneNode(node.nodeName !== "TBODY");
        if (node.nodeName === "TBODY") { copy.append(...node.childNodes); }
        node.replaceWith(copy);
    }

    function forget() {
        const now = boxes();
        if (now.length === known.length && now.every((box, number) => box === known[number])) { return; }
        known = now;
        if (stale) { return; }
        stale = true;
        const focused = document.activeElement;
        region.querySelectorAll("#action-toggle, #result_list tbody, div.actions").forEach(anew);
        if (focused.isConnected && focused !== document.activeElement) { focused.focus({preventScroll: true}); }
    }

    function start() {
        if (!stale || !known.length || !document.getElementById("action-toggle")) { return; }
        stale = false;
        window.Actions(known);
    }

    if (region) {
        region.addEventListener("pipeteer:swapped", forget);
        region.addEventListener("pointerdown", start, true);
        region.addEventListener("focusin", start, true);
    }
}
