// The viewer: starts the application, and shows the page that the address asks for.

import { render } from "preact";
import { startApp } from "./app";
import { route, startRouting } from "./net/route";
import { ListPage } from "./pages/list";
import { TracePage } from "./pages/trace";
import { startKeys } from "./parts/keys";
import { Later, lazily, loadLater } from "./parts/later";
import { Overlays } from "./parts/overlays";
import "./style/base.css";
import "./style/bar.css";
import "./style/question.css";
import "./style/overlays.css";
import "./style/text.css";
import "./style/narrow.css";
import "./style/list.css";
import "./style/trace.css";
import "./style/message.css";
import "./style/time.css";
import "./style/waterfall.css";
import { startTheme } from "./parts/theme";

const SearchPage = lazily(new Later(() => import("./pages/search")), (module) => module.SearchPage);

function Page() {
  const { traceId, searching } = route.value;
  return (
    <>
      {searching ? <SearchPage /> : traceId === null ? <ListPage /> : <TracePage key={traceId} traceId={traceId} />}
      <Overlays />
    </>
  );
}

startTheme();
startRouting();
startKeys();
startApp();
render(<Page />, document.getElementById("app")!);
loadLater();
