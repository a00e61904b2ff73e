// A component that is drawn again only when one of its props has changed. (preact/compat has this too, with much
// else.)

import { Component, type ComponentChild, type ComponentType, h } from "preact";

export function memo<P extends object>(Of: (props: P) => ComponentChild): ComponentType<P> {
  return class Memo extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const before = this.props as Record<string, unknown>;
      const after = next as Record<string, unknown>;
      for (const key in after) if (key !== "children" && before[key] !== after[key]) return true;
      return false;
    }
    override render() {
      return h(Of as ComponentType<P>, this.props as P);
    }
  };
}
