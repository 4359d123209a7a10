/** The part of htm and preact that the page uses. */
export interface VNode {
  type: unknown;
  props: Record<string, unknown>;
}
export type Child = VNode | VNode[] | string | number | boolean | null | undefined | Child[];
export interface Ref<T> {
  current: T;
}

export function html(strings: TemplateStringsArray, ...values: unknown[]): any;
export function render(child: Child, parent: Element): void;
export function useState<S>(initial: S | (() => S)): [S, (next: S | ((previous: S) => S)) => void];
export function useReducer<S, A>(reducer: (state: S, action: A) => S, initial: S): [S, (action: A) => void];
export function useEffect(effect: () => void | (() => void), inputs?: unknown[]): void;
export function useLayoutEffect(effect: () => void | (() => void), inputs?: unknown[]): void;
export function useRef<T>(initial: T): Ref<T>;
export function useMemo<T>(make: () => T, inputs: unknown[]): T;
export function useCallback<F extends (...values: any[]) => unknown>(callback: F, inputs: unknown[]): F;
