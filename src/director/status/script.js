/* Puts what has changed on the server. Plain syntax, for old built-in browsers too. */
(function () {
  'use strict';
  var own = document.currentScript;
  var live = own ? own.getAttribute('data-live') : '/events';
  var line = document.getElementById('line');

  function say(text, bad) {
    if (!line || line.textContent === text) { return; }
    line.textContent = text;
    line.className = bad ? 'lost' : '';
  }
  /* Where the keyboard is: the nearest thing with an id, and what of it. What comes before may come and go. */
  function place(node, part) {
    var at = node;
    while (at !== part && !at.id) { at = at.parentNode; }
    return at === part ? null : { id: at.id, name: node.nodeName };
  }
  function back(at) {
    var all, node = document.getElementById(at.id);
    if (node && node.nodeName !== at.name) {
      all = node.getElementsByTagName(at.name);
      node = all[0];
    }
    if (node && node.focus) { node.focus(); }
  }
  /* What is unfolded stays so, and whoever is somewhere with the keyboard stays there. */
  function put(id, html) {
    var part, open = {}, i, all, focused, at;
    if (id === 'title') {
      part = document.createElement('textarea');
      part.innerHTML = html;
      document.title = part.value;
      return;
    }
    part = document.getElementById(id);
    if (!part) { return; }
    all = part.getElementsByTagName('details');
    for (i = 0; i < all.length; i += 1) { open[all[i].id] = all[i].open; }
    focused = part.contains(document.activeElement) ? document.activeElement : null;
    at = focused && focused !== part ? place(focused, part) : null;
    part.innerHTML = html;
    all = part.getElementsByTagName('details');
    for (i = 0; i < all.length; i += 1) { if (all[i].id in open) { all[i].open = open[all[i].id]; } }
    if (at) { back(at); }
  }
  function putAll(text) {
    var parts = JSON.parse(text), id;
    for (id in parts) { if (Object.prototype.hasOwnProperty.call(parts, id)) { put(id, parts[id]); } }
    say('This page is live.', false);
  }
  var LOST = 'The line to the director is lost; this is the last that was heard. Trying again.';

  if (live.indexOf('/events') === 0) {
    if (!window.EventSource) { setInterval(function () { location.reload(); }, 30000); return; }
    /* A server that is too busy ends the line for good: then it is asked again after a while. */
    (function listen() {
      var events = new EventSource(live);
      events.addEventListener('parts', function (event) { putAll(event.data); }, false);
      events.onerror = function () {
        say(LOST, true);
        if (events.readyState === 2) { events.close(); setTimeout(listen, 5000); }
      };
    }());
    return;
  }
  function ask() {
    var request = new XMLHttpRequest();
    request.open('GET', live);
    request.onload = function () { if (request.status === 200) { putAll(request.responseText); } else { say(LOST, true); } };
    request.onerror = function () { say(LOST, true); };
    request.send();
  }
  setInterval(ask, 5000);
}());
