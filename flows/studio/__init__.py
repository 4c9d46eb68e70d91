"""The studio: a page in the browser that shows what was asked of a policy beside what was obtained, and takes ratings of it.

| module | what |
|---|---|
| `session` | what one visitor has set, and what a press of the button therefore asks for |
| `loaded_models`, `shared_drawing` | the models behind all pages; an answer drawn together with those of others |
| `found_levels` | what the reward model and the rules find in an answer |
| `presets` | points of the front, and where they stand in the picture |
| `history`, `ratings` | what is kept in the work directory |
| `training_profile` | the settings of a policy's run, with the ratings beside its own rows |
| `snippets` | an answer's request as a command or a program |
| `page`, `settings_panel`, `answer_card`, `preset_picture`, `earlier_exchanges`, `server` | NiceGUI, and nothing but how things look |
| `bars` | what was found in an answer, as HTML |
"""
