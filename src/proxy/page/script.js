/* Written for old built-in browsers too: no syntax younger than 2009. */
(function () {
  'use strict';
  var form = document.getElementById('actions');
  var said = document.getElementById('said');
  var live = document.getElementById('live');
  var root = document.documentElement;
  var KEY = /^[0-9a-f]{32}$/;
  var pressed = null;

  /* The key comes behind the # of the address, which no server sees. It leaves the address bar at once, and
     is kept for this tab alone. */
  function kept(value) {
    try {
      if (value === undefined) { return sessionStorage.getItem('rezcache-key') || ''; }
      if (value) { sessionStorage.setItem('rezcache-key', value); } else { sessionStorage.removeItem('rezcache-key'); }
    } catch (e) { /* no storage: until the tab is loaded again */ }
    return value || '';
  }
  var key = '';
  function take() {
    var given = location.hash.replace(/^#/, '');
    if (!KEY.test(given)) { return false; }
    key = kept(given);
    if (history.replaceState) { history.replaceState(null, '', location.pathname); } else { location.hash = ''; }
    return true;
  }
  if (!take()) { key = kept(); }
  if (location.search && history.replaceState) { history.replaceState(null, '', location.pathname); }
  function lock() { root.className = key ? 'js unlocked' : 'js'; }
  /* Where one is on the page, for as long as it takes to read. */
  var saying;
  function say(text) {
    if (!said) { return; }
    said.textContent = text;
    clearTimeout(saying);
    saying = setTimeout(function () { said.textContent = ''; }, 12000);
  }

  function send(path, fields, withKey, done) {
    var request = new XMLHttpRequest();
    request.open('POST', path);
    request.setRequestHeader('Authorization', 'Bearer ' + withKey);
    request.setRequestHeader('Content-Type', 'application/x-www-form-urlencoded');
    request.onload = function () { done(request.status, request.responseText.replace(/\s+$/, '')); };
    request.onerror = function () { done(0, 'rezcache does not answer. Is it still running?'); };
    request.send(fields);
  }
  function tryKey(value, quietly) {
    send('/key', '', value, function (status, text) {
      if (status === 200) { key = kept(value); } else if (status === 401) { key = kept(''); }
      lock();
      if (!quietly || status === 401) { say(status === 401 ? 'This key is not the right one.' : text); }
    });
  }
  if (key && form) { tryKey(key, true); }
  lock();
  window.onhashchange = function () { if (take()) { tryKey(key, false); } };

  function fieldsOf(button) {
    var pairs = [], i, field;
    function add(name, value) { pairs.push(encodeURIComponent(name) + '=' + encodeURIComponent(value)); }
    for (i = 0; i < form.elements.length; i += 1) {
      field = form.elements[i];
      if (field.name && field.name !== 'token' && field.type !== 'submit' &&
          (field.type !== 'checkbox' || field.checked)) { add(field.name, field.value); }
    }
    if (button && button.name) { add(button.name, button.value); }
    return pairs.join('&');
  }
  /* What was typed is done: it holds nothing up any more. */
  function done() {
    var i, field;
    for (i = 0; i < form.elements.length; i += 1) {
      field = form.elements[i];
      if (field.type === 'checkbox') { field.checked = false; } else if (field.name === 'line') { field.value = ''; } else if (field.nodeName === 'INPUT') {
        field.defaultValue = field.value;
      }
    }
  }
  function buttonAt(node) {
    while (node && node.nodeName !== 'BUTTON') { node = node.parentNode; }
    return node;
  }
  document.addEventListener('click', function (event) { pressed = buttonAt(event.target); }, false);
  /* Enter in a field means the button beside it. */
  document.addEventListener('keydown', function (event) {
    var field = event.target, button;
    if (event.keyCode !== 13 || field.nodeName !== 'INPUT' || field.id === 'token') { return; }
    button = field.parentNode.getElementsByTagName('button')[0];
    event.preventDefault();
    if (button && field.type !== 'checkbox') { button.click(); }
  }, false);

  if (form) {
    form.addEventListener('submit', function (event) {
      var button = event.submitter || pressed;
      var path = button && button.getAttribute('formaction');
      var pasted = document.getElementById('token');
      pressed = null;
      event.preventDefault();
      if (!path || !key) {
        var value = pasted.value.replace(/^.*#/, '').replace(/\s/g, '');
        if (!KEY.test(value)) {
          say('The buttons need the key: see “Key for changes” at the end of the page.');
          pasted.focus();
          return;
        }
        pasted.value = '';
        tryKey(value, false);
        return;
      }
      if (button) { button.disabled = true; }
      send(path, fieldsOf(button), key, function (status, text) {
        if (button) { button.disabled = false; }
        if (status === 401) { key = kept(''); lock(); }
        say(text);
        if (status === 200) {
          done();
          if (!listening) { location.reload(); }
        }
      });
    }, false);
  }

  /* What changed on the server comes by itself. A part in which somebody is typing or choosing waits. */
  var waiting = {}, listening = false;
  function busy(part) {
    var fields = part.getElementsByTagName('input'), i;
    for (i = 0; i < fields.length; i += 1) {
      if (fields[i] === document.activeElement || fields[i].value !== fields[i].defaultValue ||
          fields[i].checked !== fields[i].defaultChecked) { return true; }
    }
    return false;
  }
  function path(node, part) {
    var all = part.getElementsByTagName('*'), i;
    for (i = 0; i < all.length; i += 1) { if (all[i] === node) { return i; } }
    return -1;
  }
  function put(id, html) {
    var part = document.getElementById(id), open = {}, i, all, focused, place;
    if (!part) { return true; }
    if (busy(part)) { return false; }
    all = part.getElementsByTagName('details');
    for (i = 0; i < all.length; i += 1) { open[all[i].id] = all[i].open; }
    focused = part.contains(document.activeElement) ? document.activeElement : null;
    place = focused ? path(focused, part) : -1;
    part.innerHTML = html;
    all = part.getElementsByTagName('details');
    for (i = 0; i < all.length; i += 1) { if (all[i].id in open) { all[i].open = open[all[i].id]; } }
    if (place >= 0) {
      all = part.getElementsByTagName('*');
      if (all[place] && all[place].nodeName === focused.nodeName && all[place].focus) { all[place].focus(); }
    }
    return true;
  }
  function settle() {
    var id;
    for (id in waiting) {
      if (Object.prototype.hasOwnProperty.call(waiting, id) && put(id, waiting[id])) { delete waiting[id]; }
    }
  }
  document.addEventListener('focusout', function () { setTimeout(settle, 0); }, false);
  if (window.EventSource) {
    var events = new EventSource('/events');
    events.addEventListener('parts', function (event) {
      var parts = JSON.parse(event.data), id;
      for (id in parts) { if (Object.prototype.hasOwnProperty.call(parts, id)) { waiting[id] = parts[id]; } }
      listening = true;
      if (live) { live.textContent = 'These numbers are kept up to date.'; }
      settle();
    }, false);
    events.onerror = function () {
      listening = false;
      if (live) { live.textContent = 'rezcache does not answer at the moment; these are the last numbers it told.'; }
    };
  }
}());
