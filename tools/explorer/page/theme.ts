import { useEffect, useState } from 'preact/hooks';
import { DARK, LIGHT, type Palette } from './palette.ts';

const KEY = 'viommu-theme';
type Choice = 'auto' | 'light' | 'dark';
const NEXT: { readonly [c in Choice]: Choice } = { auto: 'light', light: 'dark', dark: 'auto' };

/** What was chosen before; a page opened from the disk may have no storage. */
function stored(): Choice {
  try {
    const found = localStorage.getItem(KEY);
    return found === 'light' || found === 'dark' ? found : 'auto';
  } catch {
    return 'auto';
  }
}

/** Light or dark: as the system has it, until somebody chooses. */
export function useTheme(): { readonly palette: Palette; readonly choice: Choice; readonly next: () => void } {
  const [choice, setChoice] = useState<Choice>(stored);
  const query = matchMedia('(prefers-color-scheme: dark)');
  const [system, setSystem] = useState(query.matches);
  useEffect(() => {
    const hear = () => setSystem(query.matches);
    query.addEventListener('change', hear);
    return () => query.removeEventListener('change', hear);
  }, []);
  const dark = choice === 'dark' || (choice === 'auto' && system);
  useEffect(() => {
    document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  }, [dark]);
  const next = () => {
    setChoice(NEXT[choice]);
    try {
      localStorage.setItem(KEY, NEXT[choice]);
    } catch {
      // It is not kept, then.
    }
  };
  return { palette: dark ? DARK : LIGHT, choice, next };
}
