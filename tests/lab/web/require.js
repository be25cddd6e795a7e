// CommonJS modules, as npm packs them, fetched when they are required.
"use strict";
const require = (() => {
  const mains = {
    jssip: "lib/JsSIP.js",
    debug: "src/browser.js",
    ms: "index.js",
    events: "events.js",
    "sdp-transform": "lib/index.js",
  };
  const loaded = {};

  function text(path) {
    const request = new XMLHttpRequest();
    request.open("GET", `/js/${path}`, false);
    request.send();
    if (request.status !== 200) throw new Error(`${path}: ${request.status}`);
    return request.responseText;
  }

  function load(path) {
    if (!loaded[path]) {
      const module = (loaded[path] = { exports: {} });
      if (path.endsWith(".json")) module.exports = JSON.parse(text(path));
      else new Function("require", "module", "exports", `${text(path)}\n//# sourceURL=${path}`)(from(path), module, module.exports);
    }
    return loaded[path].exports;
  }

  // What a module at this path requires by a name.
  function from(path) {
    return (name) => {
      if (!name.startsWith(".")) return load(`${name}/${mains[name]}`);
      const parts = path.split("/").slice(0, -1);
      for (const part of name.split("/")) {
        if (part === "..") parts.pop();
        else if (part !== ".") parts.push(part);
      }
      const full = parts.join("/");
      return load(/\.js(on)?$/.test(full) ? full : `${full}.js`);
    };
  }
  return from("");
})();
