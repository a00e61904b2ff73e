import { render } from "preact";
render(<p>tracewatch</p>, document.getElementById("app")!);
