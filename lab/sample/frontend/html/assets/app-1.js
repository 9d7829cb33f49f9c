const show = (id, text) => { document.getElementById(id).textContent = text; };

fetch("/api/health")
  .then((answer) => answer.json())
  .then((health) => show("api", health.status === "healthy" ? "正常" : "異常"))
  .catch(() => show("api", "無法連線"));

const live = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/ws`);
live.addEventListener("open", () => show("live", "已連線"));
live.addEventListener("close", () => show("live", "已中斷"));
live.addEventListener("message", (event) => show("live", JSON.parse(event.data).message));
